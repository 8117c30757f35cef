"""Fine-tuning as a plain loop over `transformers`, PyTorch and PEFT: the peer of our numbers and of our speed.

    python tests/torch_finetune.py train --size s --finetune lora --batch 16 --context 52

Batches are dicts of NumPy arrays as our data source makes them: `inputs` [B, T], `lengths` [B], `labels`.
"""

import argparse
import itertools
import json
import statistics
import time

import numpy as np
import peft
import torch
import transformers

EOS, PAD = 2, 3
PROBLEMS = {"single_label": "single_label_classification", "regression": "regression"}
MATRICES = {name: f"self_attn.{name}_proj" for name in "qkvo"} | {n: f"mlp.{n}_proj" for n in ("gate", "up", "down")}
SIZES = {"xs": (2, 64, 160, 4, 2), "s": (6, 256, 704, 8, 2), "m": (12, 512, 1408, 8, 4), "l": (12, 1024, 2816, 16, 4)}


def classifier(folder, problem: str, kernel: np.ndarray, *, pool_at_end: bool = False):
    """The model of a Hugging Face folder with a head without bias whose kernel is [D, outputs].

    The published configuration names no <pad>, so its script sets </s>: every row is then pooled at the end of its
    batch. `pool_at_end` does so too.
    """
    model = transformers.LlamaForSequenceClassification.from_pretrained(
        folder, num_labels=kernel.shape[1], problem_type=PROBLEMS[problem], pad_token_id=EOS if pool_at_end else PAD,
        dtype=torch.float32,
    )  # fmt: skip
    with torch.no_grad():
        model.score.weight.copy_(torch.tensor(kernel.T))
    return model


def with_lora(model, adapters: dict[str, np.ndarray], *, rank: int, alpha: float, targets):
    """The model with PEFT's adapters of these matrices ("q"); the head trains too.

    `adapters`: ours by layer, "layers_0/q/a" → [inputs..., rank] and "…/b" → [rank, outputs...]. The factor
    alpha / rank, which our A includes, is taken out of it.
    """
    names = [MATRICES[name].split(".")[1] for name in targets]
    config = peft.LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0)
    adapted = peft.get_peft_model(model, config)
    state = dict(adapted.named_parameters())
    with torch.no_grad():
        for path, array in adapters.items():
            layer, name, which = path.split("/")
            array = array.reshape(-1, rank) * (rank / alpha) if which == "a" else array.reshape(rank, -1)
            module = f"base_model.model.model.{layer.replace('_', '.')}.{MATRICES[name]}"
            state[f"{module}.lora_{which.upper()}.default.weight"].copy_(torch.tensor(array.T))
    return adapted


def tensors(batch) -> dict[str, torch.Tensor]:
    """A batch as `transformers` takes it."""
    inputs, labels = torch.tensor(np.asarray(batch["inputs"], np.int64)), torch.tensor(np.asarray(batch["labels"]))
    mask = torch.arange(inputs.shape[1]) < torch.tensor(np.asarray(batch["lengths"]))[:, None]
    labels = labels.long() if not labels.is_floating_point() else labels
    return {"input_ids": inputs, "attention_mask": mask.long(), "labels": labels}


def adamw(model, *, rate: float, beta2: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices alone."""
    trained = [x for x in model.parameters() if x.requires_grad]
    groups = [
        {"params": [x for x in trained if x.ndim > 1], "weight_decay": weight_decay},
        {"params": [x for x in trained if x.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, beta2), eps=1e-8)


def step(model, optimizer, batch, clip_norm: float) -> float:
    """One step on a batch of `tensors`; its loss."""
    optimizer.zero_grad(set_to_none=True)
    loss = model(**batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_([x for x in model.parameters() if x.requires_grad], clip_norm)
    optimizer.step()
    return loss.item()


def losses(model, batches, *, clip_norm: float, **recipe) -> list[float]:
    """The loss of each batch before the step on it."""
    optimizer = adamw(model.train(), **recipe)
    return [step(model, optimizer, tensors(batch), clip_norm) for batch in batches]


def logits(model, batch) -> np.ndarray:
    """The outputs of the head, [B, outputs]."""
    with torch.no_grad():
        return model.eval()(**tensors(batch)).logits.numpy()


def tokenized(sequences, *, max_tokens: int, k: int = 6) -> list[list[int]]:
    """<s> + DNA + <s> by the published script: what is left over is <oov>, and truncation removes the last <s>."""
    first = 32  # after the special tokens
    number = {"".join(kmer): first + i for i, kmer in enumerate(itertools.product("ATCG", repeat=k))}
    rows = []
    for sequence in sequences:
        kmers = [sequence[i : i + k] for i in range(0, len(sequence), k)]
        rows.append([1, *(number.get(kmer, 0) for kmer in kmers), 1][:max_tokens])
    return rows


def main() -> None:
    """Measures the step on random rows; prints a JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=["train"])
    parser.add_argument("--size", default="s", choices=SIZES)
    parser.add_argument("--finetune", default="full", choices=["full", "lora"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--context", type=int, default=52, help="tokens")
    parser.add_argument("--dtype", default="float32", choices=["float32"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--remat", action="store_true", help="checkpoint the layers")
    args = parser.parse_args()
    layers, hidden, width, heads, kv_heads = SIZES[args.size]
    config = transformers.LlamaConfig(
        vocab_size=4128, hidden_size=hidden, intermediate_size=width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=16384, rms_norm_eps=1e-5,
        bos_token_id=1, eos_token_id=EOS, pad_token_id=PAD, num_labels=2, problem_type=PROBLEMS["single_label"],
    )  # fmt: skip
    model = transformers.LlamaForSequenceClassification(config)
    if args.remat:
        model.gradient_checkpointing_enable()
    if args.finetune == "lora":
        model = peft.get_peft_model(model, peft.LoraConfig(
            task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"],
        ))  # fmt: skip
    rng = np.random.default_rng(0)
    inputs = rng.integers(32, 4128, (args.batch, args.context))
    inputs[:, [0, -1]] = 1
    batch = tensors({
        "inputs": inputs, "lengths": np.full(args.batch, args.context), "labels": rng.integers(0, 2, args.batch),
    })  # fmt: skip
    optimizer = adamw(model.train(), rate=1e-5, beta2=0.995, weight_decay=0.1)
    times = []
    for _ in range(args.repeats + 3):
        began = time.perf_counter()
        step(model, optimizer, batch, 1.0)
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times[3:])
    print(json.dumps({"seconds": seconds, "rows_per_s": args.batch / seconds,
                      "tokens_per_s": args.batch * args.context / seconds}))  # fmt: skip


if __name__ == "__main__":
    main()
