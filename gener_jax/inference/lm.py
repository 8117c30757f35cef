"""A trained model as one object: `lm = gener_jax.load(folder)`, then `lm.generate`, `lm.logits`."""

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.tokenizer import BOS, SPECIAL_TOKENS
from gener_jax import memory, pretrained
from gener_jax.config import Config, with_model
from gener_jax.inference.generate import (
    BATCH_SIZE,
    Sampling,
    cache_size,
    decode,
    left_pad,
    right_pad,
    round_up,
    split_prompt,
)
from gener_jax.model import decoder
from gener_jax.model.sharding import make_mesh
from gener_jax.tokenizer import Tokenizer, for_config


class LM:
    """A model, its tokenizer and its parameters on a mesh."""

    def __init__(self, config: Config, params, tokenizer: Tokenizer, mesh: jax.sharding.Mesh, step: int | None = None):
        """`step` is the checkpoint's, where the parameters come from one."""
        self.config, self.params, self.tokenizer, self.mesh, self.step = config, params, tokenizer, mesh, step
        self.model = decoder.Decoder(config.model)
        self._logits = jax.jit(self._apply)
        self._pooled = jax.jit(self._pool, static_argnames="pooling")

    def _apply(self, params, ids):
        hidden, _ = self.model.apply({"params": params}, ids)
        return self.model.apply({"params": params}, hidden, method="logits")

    def _pool(self, params, ids, lengths, *, pooling: str):
        hidden, _ = self.model.apply({"params": params}, ids)
        hidden = hidden.astype(jnp.float32)
        if pooling == "last":
            return jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)[:, 0]
        real = jnp.arange(ids.shape[1]) < lengths[:, None]
        return jnp.einsum("btd,bt->bd", hidden, real.astype(jnp.float32)) / lengths[:, None]

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
        chunks: int = 1,
        remainder: str = "oov",
        batch_size: int = 8,
    ) -> np.ndarray:
        """Embeddings, float32 [sequences, chunks · hidden], in the order of the sequences.

        Args:
          sequences: DNA, special tokens written in it; framed by the model's own convention (see `frame`).
          pooling: "last", the hidden state behind the last norm of the last token; or "mean", over all tokens of the
            frame.
          chunks: cut each sequence into so many runs of tokens, as equal as can be, embed each alone and join the
            embeddings: GENERator's way with what is longer than the context.
          remainder: what becomes of bases left over at the end: "oov", one <oov>, as published; or "trim_left",
            "pad_left", "error" (see `Tokenizer.encode`).
          batch_size: rows read together.

        Raises:
          ValueError: for what is no DNA, a frame longer than the model's positions, or fewer tokens than chunks.
        """
        if isinstance(sequences, str):
            raise ValueError("sequences is one string: give a list of them")
        if pooling not in ("last", "mean"):
            raise ValueError(f"pooling {pooling!r} is none of last, mean")
        for name, value in (("chunks", chunks), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} is {value}: it has to be positive")
        rows = []
        for number, sequence in enumerate(sequences):
            ids = self.tokenizer.encode(sequence, remainder=remainder)
            if len(ids) < chunks:
                raise ValueError(f"sequence {number} has {len(ids)} tokens, fewer than {chunks} chunk(s)")
            rows += [self.frame(part) for part in np.array_split(ids, chunks)]
            self._check_length(max(map(len, rows[-chunks:])), f"sequence {number} in {chunks} chunk(s)")
        found = np.zeros((len(rows), self.config.model.hidden_size), np.float32)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            empty = round_up(len(chosen), least=1) - len(chosen)
            batch = [rows[i] for i in chosen] + [np.array([BOS])] * empty
            lengths = np.array([len(row) for row in batch], np.int32)
            ids = right_pad(batch, round_up(int(lengths.max()), steps=4))  # nothing sees what lies behind it
            with jax.set_mesh(self.mesh):
                pooled = self._pooled(self.params, jnp.asarray(ids), jnp.asarray(lengths), pooling=pooling)
            found[chosen] = np.asarray(pooled)[: len(chosen)]
        return found.reshape(len(sequences), chunks * found.shape[1])

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
        self._check_length(ids.shape[1], "a row of ids")
        with jax.set_mesh(self.mesh):
            return np.asarray(self._logits(self.params, jnp.asarray(ids, jnp.int32)))

    def _check_length(self, tokens: int, what: str) -> None:
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
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
        stop: Sequence[str] = (),
        batch_size: int = BATCH_SIZE,
    ) -> list[str]:
        """Continuations of the prompts: exactly `num_bases` bases each, fewer only where a stop token came first.

        Args:
          prompts: DNA of any length, special tokens written in it; an `<s>` is put in front. Where a prompt is no
            whole number of k-mers, its last bases fix the beginning of the first generated token exactly, so the
            continuation follows the prompt without a gap. May be empty.
          temperature: 0 is greedy.
          top_k, top_p: draw among the k most likely tokens, and among the fewest that hold the mass p.
          seed: one for all (each row takes its own stream of it), or one a prompt; a row's draw depends on its seed
            and prompt, not on the batch.
          stop: special tokens, such as "</s>", that end a row; all others are never generated.
          batch_size: rows decoded together.

        Raises:
          ValueError: for a prompt that is no DNA, more tokens than the model's positions, or unequal numbers of seeds
            and prompts.
        """
        if isinstance(prompts, str):
            raise ValueError("prompts is one string: give a list of them")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it has to be positive")
        if num_bases < 0:
            raise ValueError(f"num_bases is {num_bases}: it cannot be negative")
        sampling = Sampling(temperature, top_k, top_p)
        if any(not 0 <= s < 2**32 for s in np.atleast_1d(np.asarray(seed, object))):
            raise ValueError(f"seed is {seed}: seeds are from 0 to 2^32 - 1")
        if isinstance(seed, int | np.integer):
            root = jax.random.key(seed)
            keys = [jax.random.fold_in(root, i) for i in range(len(prompts))]
        elif len(seed) == len(prompts):
            keys = [jax.random.key(s) for s in seed]
        else:
            raise ValueError(f"{len(seed)} seeds for {len(prompts)} prompts: give one a prompt, or one for all")
        rows = [split_prompt(self.tokenizer, p) for p in prompts]
        shortest = self.tokenizer.token_bases[self.tokenizer.token_bases > 0].min()
        for prompt, (ids, left) in zip(prompts, rows, strict=True):
            self._check_length(len(ids) + -(-(len(left) + num_bases) // shortest), f"prompt {prompt[:20]!r}")
        stops = np.zeros(self.tokenizer.vocab_size, bool)
        for name in stop:
            if name not in SPECIAL_TOKENS:
                raise ValueError(f"stop token {name!r} is none of {' '.join(SPECIAL_TOKENS)}")
            stops[SPECIAL_TOKENS.index(name)] = True
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))  # equal lengths together: less padding
        if line := memory.inference_shortage(
            self.config, self.mesh, *cache_size([ids for ids, _ in rows], num_bases, self.tokenizer, batch_size)
        ):
            raise MemoryError(line)
        texts = [""] * len(rows)
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            drawn = self._generate([rows[i] for i in chosen], [keys[i] for i in chosen], num_bases, sampling, stops)
            for i, text in zip(chosen, drawn, strict=True):
                texts[i] = text
        return texts

    def _generate(self, rows, keys, num_bases: int, sampling: Sampling, stops: np.ndarray) -> list[str]:
        t = self.tokenizer
        is_dna = t.token_bases > 0
        # A stop token cannot begin with the bases that a prompt has left over.
        first_allowed = np.stack([self._agrees(left) | (stops & (len(left) == 0)) for _, left in rows])
        over = np.array([len(left) for _, left in rows])
        wanted = over + num_bases
        shortest = t.token_bases[is_dna].min()
        count = round_up(len(rows), least=1)
        empty = count - len(rows)  # rows added to round the batch up want nothing and are dropped
        lengths = np.array([len(ids) for ids, _ in rows] + [1] * empty)
        prompts = left_pad([ids for ids, _ in rows] + [np.array([BOS])] * empty, round_up(int(lengths.max())))
        with jax.set_mesh(self.mesh):
            out, counts = decode(
                self.model, self.params, prompts, lengths.astype(np.int32),
                jnp.stack(keys + [jax.random.key(0)] * empty),
                np.concatenate([first_allowed, np.broadcast_to(is_dna, (empty, len(is_dna)))]), is_dna | stops, stops,
                t.token_bases.astype(np.int32), np.concatenate([wanted, np.zeros(empty)]).astype(np.int32),
                np.float32(sampling.temperature), np.int32(sampling.top_k), np.float32(sampling.top_p),
                room=round_up(int(-(-wanted.max() // shortest))),
                filtered=sampling.top_k > 0 or sampling.top_p < 1,
            )  # fmt: skip
        texts = []
        for i, ids in enumerate(np.asarray(out)[: len(rows)]):
            ids = ids[: counts[i]]
            texts.append(t.decode(ids[~stops[ids]])[over[i] : wanted[i]])
        return texts

    @functools.lru_cache(maxsize=4096)  # noqa: B019 (a model lives as long as its process)
    def _agreeing(self, left: bytes) -> np.ndarray:
        t = self.tokenizer
        allowed = t.token_bases > 0
        for i, code in enumerate(left):
            if code < 4:  # an N agrees with every base
                digits = np.arange(4**t.k) // 4 ** (t.k - 1 - i) % 4
                allowed[-(4**t.k) :] &= digits == code
        return allowed

    def _agrees(self, left: np.ndarray) -> np.ndarray:
        """Which tokens begin with these bases, bool [vocabulary]."""
        return self._agreeing(left.tobytes())


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
      folder: what `gener_jax.train` wrote; or a Hugging Face folder with config.json and safetensors; or the name of
        one, such as "GenerTeam/GENERator-v2-eukaryote-1.2b-base", in the local Hugging Face cache.
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
    params, step = pretrained.read_params(folder, config, mesh, step=step, dtype=config.model.dtype)
    return LM(config, params, tokenizer, mesh, step)


def _default_mesh(config: Config) -> jax.sharding.Mesh:
    divides = config.model.hidden_size % len(jax.devices()) == 0
    return make_mesh(1, -1, 1, None if divides else jax.devices()[:1])
