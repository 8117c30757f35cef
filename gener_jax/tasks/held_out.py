"""Held-out loss and bits per base: each region at phase 0, on its own strand, in windows of one context length.

The tokens of a region are split into chunks of at most one context length. The input of a chunk is <s> and its tokens
but the last, so every token is a target once. Chunks are packed into rows as documents that do not attend to each
other, so that all batches have one shape, which compiles once, with little padding.

bits_per_base is the sum of −log₂ p(target) over targets that are DNA, divided by their number of bases; `loss` is the
same in nats per token. <s>, <oov> and <pad> are not targets. (The training loss includes <s>, which ends a region.)

A region with near copies in the training split shows less of what the model has learnt, so the result also has the
sums over regions without near copies. `by_base` adds sums over soft-masked and other bases.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from data_pipeline.dataset.reader import RegionSource
from data_pipeline.sequence.tokenizer import BOS, PAD, Tokenizer
from data_pipeline.splitting.leakage import NEAR_COPY
from gener_jax.config import Config
from gener_jax.data.loader import to_devices
from gener_jax.data.permutation import permute
from gener_jax.model import kernels, kmers, losses, parallel
from gener_jax.model.decoder import Decoder
from gener_jax.model.sharding import TOKENS, batch_sharding
from gener_jax.runtime.transfer import fetch


@dataclasses.dataclass(frozen=True)
class Chunk:
    """At most one context length of consecutive tokens of a region."""

    region: int
    start: int  # the index of the first token in its region
    ids: np.ndarray


def region_ids(source: RegionSource, tokenizer: Tokenizer, region: int) -> np.ndarray:
    """All whole tokens of a region at phase 0, int32."""
    if source.storage == "token_ids":
        return source.read(region, 0, int(source.index["tokens"][region]))
    return tokenizer.encode_bases(source.read(region, 0, int(source.index["length"][region])))


def chosen_regions(source: RegionSource, max_regions: int | None) -> np.ndarray:
    """The sorted indices of the regions to evaluate: all, or the first `max_regions` in a fixed random order."""
    number = len(source) if max_regions is None else min(max_regions, len(source))
    return np.sort(permute(np.arange(number), len(source), key=0)) if number < len(source) else np.arange(number)


def _rows(chunks: list[Chunk], length: int) -> list[list[Chunk]]:
    """Packs chunks into rows of `length` tokens, longest first, each into the first of the last 64 rows with room."""
    rows, room = [], []
    for chunk in sorted(chunks, key=lambda c: -len(c.ids)):
        for i in range(max(0, len(rows) - 64), len(rows)):
            if room[i] >= len(chunk.ids):
                break
        else:
            i = len(rows)
            rows.append([])
            room.append(length)
        rows[i].append(chunk)
        room[i] -= len(chunk.ids)
    return rows


def _batches(rows: list[list[Chunk]], batch_size: int, length: int) -> Iterator[tuple[dict, np.ndarray, np.ndarray]]:
    """Yields batches, and for each target its region (−1: none) and its index in that region."""
    for first in range(0, len(rows), batch_size):
        batch = {
            "inputs": np.full((batch_size, length), PAD, np.int32),
            "targets": np.full((batch_size, length), PAD, np.int32),
            "segment_ids": np.zeros((batch_size, length), np.int32),
            "positions": np.zeros((batch_size, length), np.int32),
        }
        regions = np.full((batch_size, length), -1, np.int64)
        numbers = np.zeros((batch_size, length), np.int64)
        for i, row in enumerate(rows[first : first + batch_size]):
            at = 0
            for segment, chunk in enumerate(row, 1):
                n = len(chunk.ids)
                here = (i, slice(at, at + n))
                batch["inputs"][here] = np.concatenate([[BOS], chunk.ids[:-1]])
                batch["targets"][here] = chunk.ids
                batch["segment_ids"][here] = segment
                batch["positions"][here] = np.arange(n)
                regions[here] = chunk.region
                numbers[here] = chunk.start + np.arange(n)
                at += n
        yield batch, regions, numbers


class HeldOut:
    """An evaluation, which is compiled once and can be run repeatedly."""

    def __init__(self, config: Config, source: RegionSource, tokenizer: Tokenizer, mesh, *, by_base: bool = False):
        """`by_base` (for k-mers only) adds bits by codon position, for coding regions without introns, and by case."""
        self.source, self.tokenizer, self.mesh, self.by_base = source, tokenizer, mesh, by_base
        self.length = config.data.context_length
        row_shards = mesh.shape["data"] * mesh.shape["fsdp"]
        self.batch_size = -(-config.eval.batch_size // row_shards) * row_shards  # padded rows add nothing
        self.regions = chosen_regions(source, config.eval.max_regions)
        model = Decoder(kernels.for_any_mask(config.model))

        def nll(params, batch):
            batch = parallel.balance(batch, dict.fromkeys(batch, TOKENS))
            hidden, _ = model.apply(
                {"params": params},
                batch["inputs"],
                positions_BT=batch["positions"],
                segment_ids_BT=batch["segment_ids"],
            )
            logits = model.apply({"params": params}, hidden, method="logits")
            token = losses.token_nll(logits, batch["targets"])
            base = kmers.base_nll(logits, batch["targets"], tokenizer.k) if by_base else None
            return jax.tree.map(parallel.restore, (token, base))

        # Replicated, since every process reads all results.
        self._nll = jax.jit(nll, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, params, progress=lambda done, total: None) -> dict:
        """Computes the sums and means of the module's docstring over the split, as plain numbers.

        `progress` is called after each batch with the numbers of tokens done and in all.
        """
        length, chunks, done = self.length, [], 0
        for region in self.regions:
            ids = region_ids(self.source, self.tokenizer, int(region))
            for start in range(0, len(ids), length):
                chunks.append(Chunk(int(region), start, ids[start : start + length]))
        rows, total = _rows(chunks, length), sum(len(chunk.ids) for chunk in chunks)
        nll = np.zeros(len(self.source))  # nats, by region
        tokens = np.zeros(len(self.source), np.int64)
        bases = np.zeros(len(self.source), np.int64)
        codon_nll, codon_bases = np.zeros(3), np.zeros(3, np.int64)
        case_nll, case_bases = np.zeros(2), np.zeros(2, np.int64)  # upper, lower
        # Genes of these taxa rarely have introns, so the position of a base in its region gives that in its codon.
        unspliced = [self.source.taxa.index(t) for t in ("arc", "bct", "plm", "vir") if t in self.source.taxa]
        coding = np.isin(self.source.index["taxon"], unspliced)
        coding &= self.source.index["kind"] == (self.source.kinds.index("cds") if "cds" in self.source.kinds else -1)
        sharding = batch_sharding(self.mesh)
        for batch, regions, numbers in _batches(rows, self.batch_size, length):
            put = to_devices(batch, sharding)
            with jax.set_mesh(self.mesh):
                token_nll, base_nll = fetch(self._nll(params, put))
            held = self.tokenizer.token_bases[batch["targets"]]
            dna = held > 0
            where = regions[dna]
            np.add.at(nll, where, token_nll[dna].astype(np.float64))
            np.add.at(tokens, where, 1)
            np.add.at(bases, where, held[dna])
            if self.by_base:
                if self.source.storage == "bases":
                    lower = self._lower_case(regions, numbers, batch["positions"])[dna].ravel()
                    case_nll += np.bincount(lower, base_nll[dna].astype(np.float64).ravel(), 2)
                    case_bases += np.bincount(lower, minlength=2)
                dna &= coding[regions] & (regions >= 0)
                k = self.tokenizer.k
                position = (numbers[dna][:, None] * k + np.arange(k)) % 3
                codon_nll += np.bincount(position.ravel(), base_nll[dna].astype(np.float64).ravel(), 3)
                codon_bases += np.bincount(position.ravel(), minlength=3)
            done += int((regions >= 0).sum())
            progress(done, total)
        result = _summary(nll, tokens, bases)
        if self.source.split != "train" and not np.isnan(self.source.index["train_overlap"]).any():
            new = self.source.index["train_overlap"] < NEAR_COPY
            none = {"regions": 0, "tokens": 0, "bases": 0}
            result["without_near_copies"] = _summary(nll[new], tokens[new], bases[new]) if bases[new].any() else none
        for column, names in (("kind", self.source.kinds), ("taxon", self.source.taxa)):
            codes = self.source.index[column]
            result[f"by_{column}"] = {
                name: _summary(nll[codes == i], tokens[codes == i], bases[codes == i])
                for i, name in enumerate(names)
                if bases[codes == i].any()
            }
        if self.by_base and codon_bases.all():
            result["bits_by_codon_position"] = (codon_nll / codon_bases / np.log(2)).tolist()
        if case_bases.all():
            result["by_case"] = {
                name: {"bits_per_base": float(nats / number / np.log(2)), "bases": int(number)}
                for name, nats, number in zip(("not soft-masked", "soft-masked"), case_nll, case_bases, strict=True)
            }
        return result

    def _lower_case(self, regions: np.ndarray, numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Whether each base of the targets of a batch is soft-masked, bool [batch, length, k]."""
        k = self.tokenizer.k
        lower = np.zeros((*regions.shape, k), bool)
        for row, used in enumerate(np.count_nonzero(regions >= 0, axis=1).tolist()):
            starts = np.flatnonzero(positions[row, :used] == 0).tolist()  # where chunks start
            for start, stop in itertools.pairwise([*starts, used]):
                first = int(numbers[row, start]) * k
                found = self.source.lower_case(int(regions[row, start]), first, first + (stop - start) * k)
                lower[row, start:stop] = found.reshape(-1, k)
        return lower


def _summary(nll, tokens, bases) -> dict:
    n, b = int(tokens.sum()), int(bases.sum())
    loss = float(nll.sum() / n) if n else float("nan")
    return {
        "loss": loss,
        "perplexity": float(np.exp(loss)),
        "bits_per_base": float(nll.sum() / b / np.log(2)) if b else float("nan"),
        "regions": int((tokens > 0).sum()),
        "tokens": n,
        "bases": b,
    }
