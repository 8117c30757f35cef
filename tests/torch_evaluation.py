"""The field's protocols as plain loops over `transformers`, a sequence at a time, without a cache: the peer of ours.

Written from the published protocols, not from our code: own tokenizer, own probabilities, float64 sums.
"""

import itertools

import numpy as np
import torch
import transformers

K, SPECIAL, OOV, BOS = 6, 32, 0, 1
KMERS = ["".join(x) for x in itertools.product("ATCG", repeat=K)]
IDS = {kmer: SPECIAL + i for i, kmer in enumerate(KMERS)}
FIRST = {base: [IDS[kmer] for kmer in KMERS if kmer[0] == base] for base in "ACGT"}
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def load(folder):
    """The model of a Hugging Face folder, in float32."""
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def tokens(dna: str) -> list[int]:
    """Whole 6-mers from the left; one with another letter than A, C, G, T is <oov>."""
    return [IDS.get(dna[i : i + K], OOV) for i in range(0, len(dna) // K * K, K)]


@torch.no_grad()
def log_probabilities(model, ids: list[int]) -> np.ndarray:
    """Of each token after each prefix of ids, float64 [tokens, vocabulary]."""
    return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1).numpy()


def recovery(model, prompt: str, length: int) -> str:
    """Greedy: <s> and the rightmost whole 6-mers of the prompt, special tokens suppressed, `length` tokens."""
    ids = [BOS, *tokens(prompt[len(prompt) % K :])]
    for _ in range(length):
        last = log_probabilities(model, ids)[-1]
        last[:SPECIAL] = -np.inf
        ids.append(int(last.argmax()))
    return "".join(KMERS[i - SPECIAL] for i in ids[-length:])


def recovery_of_bases(model, prompt: str, length: int) -> str:
    """The same in base mode: of each 6-mer, the most likely base at each of its positions."""
    ids = [BOS, *tokens(prompt[len(prompt) % K :])]
    for _ in range(length):
        found = np.exp(log_probabilities(model, ids)[-1, SPECIAL:]).reshape([4] * K)
        best = [found.sum(tuple(axis for axis in range(K) if axis != j)).argmax() for j in range(K)]
        ids.append(IDS["".join("ATCG"[i] for i in best)])
    return "".join(KMERS[i - SPECIAL] for i in ids[-length:])


def next_kmer(model, upstream: str, ref: str, alt: str) -> float:
    """log(p_ref / (p_alt + 1e-10)) of the 6-mers that begin with each allele, after the bases upstream."""
    upstream = upstream.lstrip("N")
    probability = np.exp(log_probabilities(model, [BOS, *tokens(upstream[len(upstream) % K :])])[-1])
    p_ref, p_alt = probability[FIRST[ref]].sum(), probability[FIRST[alt]].sum()
    return float(np.log(p_ref / (p_alt + 1e-10)))


def mean_log_likelihood(model, dna: str) -> float:
    """Of whole 6-mers, nats per token."""
    ids = tokens(dna)
    found = log_probabilities(model, [BOS, *ids])
    return float(np.mean([found[i, token] for i, token in enumerate(ids)]))


def mean_base_marginal(model, dna: str) -> float:
    """The mean over bases of log p⁽ʲ⁾(base), from the six marginals of each 6-mer (special tokens keep their mass)."""
    ids = tokens(dna)
    found = np.exp(log_probabilities(model, [BOS, *ids])[:, SPECIAL:]).reshape(-1, *[4] * K)
    values = []
    for i, base in enumerate(dna[: len(ids) * K]):
        at, j = divmod(i, K)
        marginal = found[at].sum(tuple(axis for axis in range(K) if axis != j))
        values.append(np.log(marginal["ATCG".index(base)]))
    return float(np.mean(values))


def window(model, genome: str, position: int, alt: str, context: int) -> float:
    """Mean log-probability per token of [p - context / 2, p + context / 2), right-trimmed, minus that with `alt`."""
    start = max(position - context // 2, 0)
    reference = genome[start : position + context // 2]
    reference = reference[: len(reference) // K * K]
    at = position - start
    alternate = reference[:at] + alt + reference[at + 1 :]
    return mean_log_likelihood(model, reference) - mean_log_likelihood(model, alternate)


def reverse_complement(dna: str) -> str:
    """The other strand."""
    return dna.translate(COMPLEMENT)[::-1]


@torch.no_grad()
def embedding(model, dna: str, pooling: str, layer: int) -> np.ndarray:
    """The mean over <s> and all tokens, or the last token's, of the hidden states of a layer (-1: after the norm)."""
    ids = torch.tensor([[BOS, *tokens(dna)]])
    hidden = model.model(ids, output_hidden_states=True).hidden_states[layer][0].double().numpy()
    return hidden.mean(0) if pooling == "mean" else hidden[-1]
