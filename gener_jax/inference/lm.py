"""A trained model as one object: `lm = gener_jax.load(folder)`, then `lm.generate`, `lm.logits`."""

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline import bases
from data_pipeline.tokenizer import BOS, SPECIAL_TOKENS
from gener_jax import memory, pretrained
from gener_jax.config import Config, with_model
from gener_jax.inference.batches import tokens_at_once
from gener_jax.inference.constraints import Constraints
from gener_jax.inference.embeddings import embed
from gener_jax.inference.generate import BATCH_SIZE, Rows, Sampling, cache_size, split_prompt
from gener_jax.inference.likelihood import Score, base_probabilities, kmers, log_likelihood
from gener_jax.inference.variants import CONTEXT, Genome, Scored, Variant
from gener_jax.inference.variants import score as score_variants
from gener_jax.model import decoder, kernels
from gener_jax.model.sharding import make_mesh
from gener_jax.tokenizer import Tokenizer, for_config


class LM:
    """A model, its tokenizer and its parameters on a mesh."""

    def __init__(self, config: Config, params, tokenizer: Tokenizer, mesh: jax.sharding.Mesh, step: int | None = None):
        """`params` stacked or by layer (kept by layer); `step` is the checkpoint's, where they come from one."""
        params = decoder.unstack(params)
        self.config, self.params, self.tokenizer, self.mesh, self.step = config, params, tokenizer, mesh, step
        self.model = decoder.Decoder(kernels.for_any_mask(config.model))

    def frame(self, ids: np.ndarray) -> np.ndarray:
        """The ids of a sequence, int32 [tokens], as the model reads it to embed it, by `config.tokenizer.convention`.

        v1: <s> and the sequence; v2: <s>, the sequence and a second <s>, the separator. The embedding is the hidden
        state of the last token in both: in v2, of the separator. Raises ValueError where the convention is unknown.
        """
        convention = self.config.tokenizer.convention
        if convention == "unknown":
            raise ValueError(
                f"{self.config.name} does not say whether it reads sequences as v1 or v2 of GENERator: load it with "
                "convention='v1' or 'v2'"
            )
        ends = {"v1": 0, "v2": 1}[convention]
        return np.concatenate([[BOS], ids, [BOS] * ends]).astype(np.int32)

    def embed(
        self,
        sequences: Sequence[str],
        *,
        pooling: str = "last",
        layer: int | None = None,
        chunks: int = 1,
        remainder: str = "oov",
        batch_tokens: int | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """Embeddings, float32 [sequences, chunks · hidden], in the order of the sequences.

        Args:
          sequences: DNA, special tokens written in it; framed by the model's own convention (see `frame`).
          pooling: "last", the hidden state of the frame's last token; "separator", the same, which in v2 is the second
            <s> (v1 has none, and is refused); "mean", over all tokens of the frame; "tokens", a list of all of them,
            float32 [tokens, hidden] a sequence (of several chunks: end to end, each with its frame).
          layer: 0, the token embeddings; i, what leaves layer i, un-normed; None, behind the last norm.
          chunks: cut each sequence into so many runs of tokens, as equal as can be, embed each alone and join the
            embeddings: GENERator's way with what is longer than the context.
          remainder: what becomes of bases left over at the end: "oov", one <oov>, as published; or "trim_left",
            "pad_left", "error" (see `Tokenizer.encode`).
          batch_tokens: tokens read together, padding included [16 384 on a CPU, 65 536 on an accelerator].

        Raises:
          ValueError: for what is no DNA, a frame longer than the model's positions, or fewer tokens than chunks.
        """
        return embed(
            self, sequences, pooling=pooling, layer=layer, chunks=chunks, remainder=remainder,
            batch_tokens=tokens_at_once(batch_tokens),
        )  # fmt: skip

    def log_likelihood(
        self,
        sequences: Sequence[str],
        *,
        score: str = "token",
        strand: str = "+",
        per_base: bool = False,
        special_tokens: bool = True,
        batch_tokens: int | None = None,
    ) -> list[Score]:
        """What each sequence scores behind <s>, in their order; see `Score`.

        Args:
          sequences: DNA of any length; special tokens may come before all of it (`<mam><cds>ATG…`), are conditioned on
            and not scored. A base that is not A, C, G or T is summed over, and its token is <oov> to what follows.
          score: "token", the log-likelihood, or "base", the mean log-probability of each base in its own marginal.
          strand: "+", "-" (the reverse complement behind the same prefix), or "both", the mean of the two.
          per_base: also each base's term.
          special_tokens: take the softmax over the full vocabulary, as published; False leaves the special tokens out,
            so that the likelihoods of all sequences of a length add up to 1.
          batch_tokens: tokens read together, padding included [16 384 on a CPU, 65 536 on an accelerator].

        Raises:
          ValueError: for an empty sequence, what is no DNA, or more tokens than the model's positions.
        """
        return log_likelihood(
            self, sequences, score=score, strand=strand, per_base=per_base, special_tokens=special_tokens,
            batch_tokens=tokens_at_once(batch_tokens),
        )  # fmt: skip

    def base_probabilities(
        self,
        sequences: Sequence[str],
        *,
        given: str = "tokens",
        phases: int = 1,
        batch_tokens: int | None = None,
    ) -> list[np.ndarray]:
        """Probabilities of A, C, G and T (in this order) at each base, float32 [bases, 4] a sequence; they add up to 1.

        Args:
          sequences: as `log_likelihood` takes them.
          given: "tokens", each base's marginal given the tokens before its own; "bases", given the bases before it in
            its own as well (its conditional probability given all bases before).
          phases: 1 reads the sequence from its first base; k averages over all k placements of each base in its token
            (of the first k - 1 bases, over those that have it). k is 6 of the published models.
          batch_tokens: tokens read together, padding included [16 384 on a CPU, 65 536 on an accelerator].

        Raises:
          ValueError: as `log_likelihood`.
        """
        batch_tokens = tokens_at_once(batch_tokens)
        return base_probabilities(self, sequences, given=given, phases=phases, batch_tokens=batch_tokens)

    def score_variants(
        self,
        variants: Iterable[Variant | tuple[str, int, str, str]],
        genome: Genome | dict[str, str] | str | Path,
        *,
        protocol: str = "right_edge",
        context: int = CONTEXT,
        phases: int = 1,
        strand: str = "+",
        marginals: bool = False,
        batch_tokens: int | None = None,
    ) -> Iterator[Scored]:
        """What each variant scores, reference against alternate, in their order, as they are made; see `variants`.

        Args:
          variants: (contig, start, ref, alt), start 0-based.
          genome: a `Genome`, sequences by name, or the path of a FASTA file.
          protocol: "right_edge", from the bases before the variant; "centred", of the window around it.
          context: bases before the variant, or of the window.
          phases: 1, as published; k (6), the mean over every place of the variant in its k-mer, with its spread.
          strand: "+", "-", or "both", the mean of the two.
          marginals: ("centred") by the mean over bases of the log of the six marginals, and not by the likelihood.
          batch_tokens: tokens read together, padding included [16 384 on a CPU, 65 536 on an accelerator].

        Raises:
          ValueError: for an option that is none, or more context than the model has positions. A variant that cannot
            be scored is no error: its `flag` says why.
          DataError: for a file that is no FASTA.
        """
        kmers(self, "score_variants")
        if isinstance(genome, dict):
            genome = Genome.of(genome)
        elif not isinstance(genome, Genome):
            genome = Genome.read(genome)
        return score_variants(
            self, itertools.starmap(Variant, variants), genome, protocol=protocol, context=context, phases=phases,
            strand=strand, marginals=marginals, batch_tokens=tokens_at_once(batch_tokens),
        )  # fmt: skip

    def logits(self, ids) -> np.ndarray:
        """Next-token logits, float32 [batch, length, vocabulary], of token ids [batch, length].

        Raises:
          ValueError: for ids outside the vocabulary, or of another rank.
        """
        ids = np.asarray(ids)
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise ValueError(f"ids have to be integers [batch, length], not {ids.dtype} {ids.shape}")
        if ids.size and not 0 <= ids.min() <= ids.max() < self.tokenizer.vocab_size:
            raise ValueError(f"ids have to be in [0, {self.tokenizer.vocab_size}), not {ids.min()} to {ids.max()}")
        self.check_length(ids.shape[1], "a row of ids")
        with jax.set_mesh(self.mesh):
            return np.asarray(_logits(self.model, self.params, jnp.asarray(ids, jnp.int32)))

    def check_length(self, tokens: int, what: str) -> None:
        """Raises ValueError where `what`, of so many tokens, is longer than the model's positions."""
        longest = self.config.model.longest
        if longest is not None and tokens > longest:
            raise ValueError(
                f"{what} needs up to {tokens} tokens of context, the model was made for {longest} "
                "(model.max_position_embeddings); load it with yarn_factor or sliding_window for more"
            )

    def generate(
        self,
        prompts: Sequence[str],
        num_bases: int,
        *,
        num_samples: int = 1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        mode: str = "token",
        seed: int | Sequence[int] = 0,
        stop: Sequence[str] = (),
        remainder: str = "constrain",
        constraints: Constraints | None = None,
        log_probs: bool = False,
        details: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> list:
        """Continuations of the prompts: exactly `num_bases` bases each, fewer only where an end was asked for and came.

        Args:
          prompts: DNA of any length, special tokens written in it; an `<s>` is put in front. May be empty.
          num_samples: continuations a prompt; they stand one after the other in the result.
          temperature: 0 is greedy.
          top_k, top_p: draw among the k most likely tokens, and among the fewest that hold the mass p.
          mode: "token", or "base": each base drawn from its own distribution (see `Sampling`).
          seed: one for all (each row takes its own stream of it), or one a row of the result; a row's draw depends on
            its seed and prompt, not on the batch.
          stop: special tokens, such as "</s>", that end a row; all others are never generated.
          remainder: what becomes of a prompt that is no whole number of k-mers. "constrain": its last bases fix the
            beginning of the first generated token exactly, so the continuation follows without a gap. "trim_left" and
            "pad_left" (with A) change the prompt's beginning, as the authors recommend.
          constraints: what the sequence has to keep to, and stop codons as ends (see `Constraints`).
          log_probs: also the log-probability of each base.
          details: return `Continuation`s, which say why each ends; implied by `log_probs`. Otherwise strings.
          batch_size: rows decoded together.

        Raises:
          ValueError: for a prompt that is no DNA, more tokens than the model's positions, unequal numbers of seeds and
            rows, or constraints that nothing keeps to.
          MemoryError: if the KV cache will not fit.
        """
        if isinstance(prompts, str):
            raise ValueError("prompts is one string: give a list of them")
        for name, value in (("batch_size", batch_size), ("num_samples", num_samples)):
            if value < 1:
                raise ValueError(f"{name} is {value}: it has to be positive")
        sampling = Sampling(temperature, top_k, top_p, mode)
        keys = _keys(seed, len(prompts) * num_samples)
        rows = self._prompts(prompts, num_bases, remainder)
        asked = self._asked(num_bases, sampling, stop, constraints, log_probs, rows)
        order = sorted(range(len(keys)), key=lambda i: len(rows[i // num_samples][0]))  # less padding
        ids = [rows[i // num_samples][0] for i in order]
        if line := memory.inference_shortage(
            self.config, self.mesh, *cache_size(ids, num_bases, self.tokenizer, batch_size)
        ):
            raise MemoryError(line)
        found = [None] * len(keys)
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            prompt_of = [i // num_samples for i in chosen]
            distinct = list(dict.fromkeys(prompt_of))
            of = np.array([distinct.index(p) for p in prompt_of], np.int32)
            batch = Rows(self, [rows[p] for p in distinct], of, keys[np.array(chosen)], *asked)
            batch.advance(batch.state.ids.shape[1])
            for i, continuation in zip(chosen, batch.continuations(), strict=True):
                found[i] = continuation
        return found if details or log_probs else [x.text for x in found]

    def stream(
        self,
        prompt: str,
        num_bases: int,
        *,
        every: int = 60,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        mode: str = "token",
        seed: int = 0,
        stop: Sequence[str] = (),
        remainder: str = "constrain",
        constraints: Constraints | None = None,
    ) -> Iterator[str]:
        """The continuation that `generate` gives of one prompt, in pieces of about `every` bases as they are made."""
        if every < 1:
            raise ValueError(f"every is {every}: it has to be positive")
        rows, keys = self._prompts([prompt], num_bases, remainder), _keys(seed, 1)
        asked = self._asked(num_bases, Sampling(temperature, top_k, top_p, mode), stop, constraints, False, rows)
        batch = Rows(self, rows, np.zeros(1, np.int32), keys, *asked)
        done, tokens, growing = 0, 0, True
        while growing:
            tokens += -(-every // int(self.tokenizer.token_bases.max()))
            growing = batch.advance(tokens)
            (continuation,) = batch.continuations()
            if len(continuation.text) > done:
                yield continuation.text[done:]
            done = len(continuation.text)

    def _prompts(self, prompts, num_bases: int, remainder: str) -> list[tuple[np.ndarray, np.ndarray]]:
        if num_bases < 0:
            raise ValueError(f"num_bases is {num_bases}: it cannot be negative")
        rows = [split_prompt(self.tokenizer, p, remainder) for p in prompts]
        shortest = self.tokenizer.token_bases[self.tokenizer.token_bases > 0].min()
        for prompt, (ids, left) in zip(prompts, rows, strict=True):
            self.check_length(len(ids) + -(-(len(left) + num_bases) // shortest), f"prompt {prompt[:20]!r}")
        return rows

    def _asked(self, num_bases, sampling: Sampling, stop, constraints, log_probs: bool, rows) -> tuple:
        """What `Rows` takes behind the keys."""
        constraints = constraints or Constraints()
        if self.tokenizer.kind != "kmer":
            for name, given in (("mode 'base'", sampling.mode == "base"), ("log_probs", log_probs),
                                ("constraints", constraints.any())):  # fmt: skip
                if given:
                    raise ValueError(f"{name} needs a k-mer tokenizer, not {self.tokenizer.name}")
        if log_probs or constraints.any():
            for number, (_, left) in enumerate(rows):
                if (left >= bases.N).any():
                    raise ValueError(
                        f"prompt {number} has an unknown base among the {len(left)} left over at its end, which "
                        "neither log_probs nor constraints can take into account: end it before"
                    )
        stops = np.zeros(self.tokenizer.vocab_size, bool)
        for name in stop:
            if name not in SPECIAL_TOKENS:
                raise ValueError(f"stop token {name!r} is none of {' '.join(SPECIAL_TOKENS)}")
            stops[SPECIAL_TOKENS.index(name)] = True
        return num_bases, sampling, stops, constraints, log_probs


@functools.partial(jax.jit, static_argnames="model")
def _logits(model, params, ids):
    hidden, _ = model.apply({"params": params}, ids)
    return model.apply({"params": params}, hidden, method="logits")


def _keys(seed: int | Sequence[int], rows: int) -> jax.Array:
    """A random key a row, [rows]."""
    if any(not 0 <= s < 2**32 for s in np.atleast_1d(np.asarray(seed, object))):
        raise ValueError(f"seed is {seed}: seeds are from 0 to 2^32 - 1")
    if isinstance(seed, int | np.integer):
        return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), np.arange(rows, dtype=np.uint32))
    if len(seed) != rows:
        raise ValueError(f"{len(seed)} seeds for {rows} rows: give one for all, or one a prompt and sample")
    return jax.vmap(jax.random.key)(np.array(seed, np.uint32))


def load(
    folder: str | Path,
    *,
    step: int | str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    convention: str | None = None,
    download: bool = False,
    check_memory: bool = True,
    **model,
) -> LM:
    """The model of a folder.

    Args:
      folder: what `gener_jax.train` wrote; or a Hugging Face folder with config.json and safetensors; or "tiny", the
        small model that ships; or a name such as "GenerTeam/GENERator-v2-eukaryote-1.2b-base" in the local Hugging
        Face cache.
      step: of a run, a checkpoint's step, "best" by held-out bits per base, or None for the newest.
      mesh: default: all devices along fsdp where they divide the hidden size, else the first one.
      convention: "v1" or "v2", how sequences are framed for embeddings; None: as the folder or its name says (see
        `LM.frame`).
      download: fetch a name that the cache lacks; needs `pip install 'gener_jax[hub]'`.
      check_memory: refuse before loading what does not fit.
      model: other fields of `config.model`. dtype="bfloat16" computes and stores in it. For longer inputs:
        yarn_factor=4 (YaRN), rope_theta=5e6 with max_position_embeddings=65536 (another base), sliding_window=16384.

    Raises:
      CheckpointError: if it cannot be read, a run has no such checkpoint, or it is no model of ours over k-mers.
      ConfigError: for a field that `config.model` does not have, or a value it cannot have.
      MemoryError: if the weights do not fit on the devices.
    """
    folder = pretrained.find(folder, download=download)
    config = with_model(pretrained.read_config(folder), **model)
    if convention is not None:
        config = dataclasses.replace(config, tokenizer=dataclasses.replace(config.tokenizer, convention=convention))
    return from_config(config, folder, step=step, mesh=mesh, check_memory=check_memory)


def from_config(
    config: Config,
    folder: Path,
    *,
    step: int | str | None = None,
    mesh=None,
    check_memory: bool = True,
    batch: int = 1,
    tokens: int = 0,
) -> LM:
    """The model of a folder with a changed configuration; `evaluate` and `sample` use it.

    `batch` rows of `tokens` tokens are what is going to be asked of it, and have to fit beside the weights.
    """
    tokenizer, config = for_config(config)
    mesh = mesh or _default_mesh(config)
    if check_memory:
        if line := memory.inference_shortage(config, mesh, batch, tokens):
            raise MemoryError(line)
        if line := memory.inference_shortage(config, mesh, 1, config.model.longest or 0):
            warnings.warn(f"a whole context will not fit: {line}", stacklevel=3)
    params, step = pretrained.read_params(folder, config, mesh, step=step, dtype=config.model.dtype, by_layer=True)
    return LM(config, params, tokenizer, mesh, step)


def _default_mesh(config: Config) -> jax.sharding.Mesh:
    divides = config.model.hidden_size % len(jax.devices()) == 0
    return make_mesh(1, -1, 1, None if divides else jax.devices()[:1])
