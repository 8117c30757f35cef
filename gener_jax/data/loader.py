"""Batches of examples: what a data source is, the stream of token ids that is one, and batches on the mesh.

The examples of `TokenStream` are a pure function of (seed, number).

Epoch e is a stream of tokens: the regions in a keyed order, each as <s> and its whole k-mers from a hashed phase, on a
hashed strand if reverse complements are enabled. The streams of all epochs are concatenated without padding and cut
into windows of `context_length`; the windows that begin in an epoch come in a second keyed order. So every region token
is an input once per epoch and a target once, for any number of hosts, workers, restarts or rows per batch, and the
loader's whole state is (position, seed, digest), with the position in examples.

At most k − 1 bases are lost at each end of a region; `TokenStream.epoch_stats` counts them.
"""

import atexit
import bisect
import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import grain
import jax
import numpy as np
from absl import flags

from data_pipeline.dataset.reader import RegionSource
from data_pipeline.errors import DatasetError
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, OOV, SPECIAL_TOKENS, Tokenizer
from gener_jax.config import Data
from gener_jax.data.permutation import mix, permute, subkey
from gener_jax.model.sharding import ROWS, TOKENS, batch_sharding

_REGIONS, _PHASES, _STRANDS, _WINDOWS = range(4)  # the purpose of a key
_SCANNED = 2**24  # bases, or tokens, of a dataset up to which all of it is searched for unknown bases: seconds
_ACCESSIONS = 20  # that are named in the provenance


class DataSource(Protocol):
    """Endless examples in a fixed order, each a row of a batch.

    Attributes:
      axes: array of a batch → its logical axes: ("batch",), ("batch", "length"), or with more, None where no table
        names the axis. `length` may only be the second. Sharding and the order over a context axis follow them.
      dataset: the digest of the dataset on disk.
      digest: of everything that decides which examples there are and their order, but for a seed.
      stats: counts of an epoch by name, for the screen; from `kept`, bases, and `tokens` follows the speed in bases.
      chunks: (may be absent) rows of `data.context_length` tokens of which an example consists; 1 without.
      provenance: (may be absent) what `storage.provenance` records of the data, as `TokenStream.provenance`.
    """

    axes: Mapping[str, tuple[str | None, ...]]
    dataset: str
    digest: str
    stats: Mapping[str, int]

    def batches(self, position: int, batch_size: int, rows: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
        """Batches of `batch_size` consecutive examples, from the `position`-th on; of each only the given rows."""


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One pass over the regions, in stream order."""

    start: int  # the stream position of its first token
    regions: np.ndarray  # [regions] region numbers
    phases: np.ndarray  # [regions] bases skipped at the start
    reverse: np.ndarray  # [regions] bool
    ends: np.ndarray  # [regions] stream positions, relative to start, after each region's last token

    @property
    def stop(self) -> int:
        """The stream position after its last token."""
        return self.start + int(self.ends[-1])


def arrays(data: Data) -> dict[str, type]:
    """The arrays of a batch of a `TokenStream`, each [rows, length], and their types."""
    found = {"inputs": np.int32, "targets": np.int32}
    found |= {"weights": np.float32} if data.repeat_weight != 1 else {}
    return found | ({"segment_ids": np.int32, "positions": np.int32} if data.mask_documents else {})


class TokenStream:
    """Windows of the endless token stream, by number. A random-access source for grain; picklable.

    Raises:
      DatasetError: if the split has no region with a whole token, the dataset has another tokenizer, or it stores
        token ids, to which `data.reverse_complement` and `data.repeat_weight` cannot be applied.
    """

    def __init__(self, source: RegionSource, tokenizer: Tokenizer, data: Data, seed: int):
        self.source, self.tokenizer, self.data, self.seed = source, tokenizer, data, seed
        if len(source) == 0:
            raise DatasetError("has no regions", file=source.folder, field="split", value=source.split)
        if source.storage == "token_ids" and source.info["tokenizer"]["digest"] != tokenizer.digest:
            stored = source.info["tokenizer"]["name"]
            raise DatasetError(
                f"is not the tokenizer of the configuration, {tokenizer.name}", file=source.folder, field="tokenizer",
                value=stored, remedy="build the dataset with the same tokenizer",
            )  # fmt: skip
        if source.storage == "bases" and tokenizer.kind != "kmer":
            raise DatasetError(
                f"can only be read by k-mer tokenizers, not by {tokenizer.name}", file=source.folder, field="storage",
                value=source.storage, remedy="build it with --storage token_ids --tokenizer bpe --model_file FILE",
            )  # fmt: skip
        self.k = tokenizer.k if source.storage == "bases" else 0
        if source.storage == "token_ids" and data.reverse_complement:
            raise DatasetError(
                "needs bases, and this dataset stores token ids, whose strand is fixed", file=source.folder,
                field="data.reverse_complement", value=True, remedy="set it to false, or build with --storage bases",
            )  # fmt: skip
        if source.storage == "token_ids" and data.repeat_weight != 1:
            raise DatasetError(
                "needs lower case, and this dataset stores token ids, which have none", file=source.folder,
                field="data.repeat_weight", value=data.repeat_weight,
                remedy="set it to 1, or build with --storage bases",
            )  # fmt: skip
        if not (source.index["length"].max() // self.k if self.k else source.index["tokens"].max()):
            raise DatasetError(
                "has no region that contains a whole token", file=source.folder, field="split", value=source.split
            )
        settings = {
            "dataset": source.digest,
            "split": source.split,
            "tokenizer": tokenizer.digest,
            "context_length": data.context_length,
            "random_phase": data.random_phase,
            "reverse_complement": data.reverse_complement,
            "mask_documents": data.mask_documents,
        }
        self._weights = None  # weight of a k-mer, indexed by its number of lower-case bases
        if data.repeat_weight != 1:  # runs from before this field existed keep their digest
            settings["repeat_weight"] = data.repeat_weight
            self._weights = (1 + (data.repeat_weight - 1) * np.arange(self.k + 1) / self.k).astype(np.float32)
        self.digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self._starts = [0]  # stream position of each epoch computed so far
        self._lock = threading.Lock()
        self._epoch = functools.lru_cache(maxsize=3)(self._make_epoch)

    def __reduce__(self):
        return TokenStream, (self.source, self.tokenizer, self.data, self.seed)

    @property
    def dataset(self) -> str:
        """The digest of the dataset."""
        return self.source.digest

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The arrays of `example`, each with a value per token."""
        return dict.fromkeys(arrays(self.data), TOKENS)

    @functools.cached_property
    def stats(self) -> dict[str, int]:
        """The counts of the first epoch."""
        return {"regions": len(self.source), **self.epoch_stats(0)}

    @property
    def provenance(self) -> dict:
        """Plain values on the data, for `storage.provenance`: what they are, and which special tokens they may contain.

        These are <s>, and <oov> unless all regions were read and have no unknown base.
        """
        info, split = self.source.info, self.source.info["splits"][self.source.split]
        return {
            "dataset": self.source.digest,
            "regions": len(self.source),
            "bases": int(self.source.index["length"].sum()),
            "taxa": {name: counts["bases"] for name, counts in split["taxa"].items()},
            "kinds": {name: counts["bases"] for name, counts in split["kinds"].items()},
            "records": len(info["accessions"]),
            "accessions": info["accessions"][:_ACCESSIONS],
            "special_tokens": [SPECIAL_TOKENS[BOS], *[SPECIAL_TOKENS[OOV]] * self._may_have_unknown()],
            "context_length": self.data.context_length,
            "mask_documents": self.data.mask_documents,
        }

    def _may_have_unknown(self) -> bool:
        units = self.source.index["length" if self.k else "tokens"].tolist()
        if sum(units) > _SCANNED:
            return True
        codes = (self.source.read(region, 0, n) for region, n in enumerate(units))
        if self.source.storage == "bases":
            return any((x >= bases.N).any() for x in codes)
        return any((x == OOV).any() for x in codes)

    def batches(self, position: int, batch_size: int, rows: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
        """Batches of `example`s, as `DataSource` describes."""
        workers, prefetch = self.data.num_workers, self.data.prefetch
        return read_batches(self.example, position, batch_size, rows, num_workers=workers, prefetch=prefetch)

    def _make_epoch(self, epoch: int) -> Epoch:
        while len(self._starts) <= epoch:
            self._epoch(len(self._starts) - 1)
        numbers = np.arange(len(self.source))
        regions = permute(numbers, len(numbers), subkey(self.seed, epoch, _REGIONS))
        phases = np.zeros(len(numbers), np.int64)
        reverse = np.zeros(len(numbers), bool)
        if self.k:
            if self.data.random_phase:
                phases = (mix(subkey(self.seed, epoch, _PHASES), regions) % np.uint64(self.k)).astype(np.int64)
            if self.data.reverse_complement:
                reverse = mix(subkey(self.seed, epoch, _STRANDS), regions) % np.uint64(2) == 1
            tokens = np.maximum(self.source.index["length"][regions].astype(np.int64) - phases, 0) // self.k
        else:
            tokens = self.source.index["tokens"][regions].astype(np.int64)
        ends = np.cumsum(tokens + (tokens > 0))  # <s> and its tokens; none if no whole k-mer is left
        with self._lock:  # grain reads from several threads
            made = Epoch(self._starts[epoch], regions, phases, reverse, ends)
            if len(self._starts) == epoch + 1:
                self._starts.append(made.stop)
        return made

    def epoch_of(self, position: int) -> int:
        """The epoch of a stream position."""
        while self._starts[-1] <= position:
            self._epoch(len(self._starts) - 1)
        return bisect.bisect_right(self._starts, position) - 1

    def window(self, number: int) -> int:
        """The window of the stream that is the `number`-th of the run (its tokens start at window · length)."""
        length = self.data.context_length
        # A number and a window of the same value are in the same epoch, whose windows are permuted among themselves.
        epoch = self.epoch_of(number * length)
        first, end = (-(-self._starts[e] // length) for e in (epoch, epoch + 1))
        key = subkey(self.seed, epoch, _WINDOWS)
        return first + int(permute(np.array(number - first), end - first, key)[0])

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Token ids int32, the document each belongs to, and its weight in the loss, of stream positions [start, stop).

        Weights are float32: the mean over a k-mer's bases, 1 at <s>; None if every base weighs 1.
        """
        ids, documents = np.empty(stop - start, np.int32), np.empty(stop - start, np.int64)
        weights = None if self._weights is None else np.ones(stop - start, np.float32)
        at, document = start, 0
        while at < stop:
            epoch = self._epoch(self.epoch_of(at))
            i = int(np.searchsorted(epoch.ends, at - epoch.start, side="right"))
            while at < min(stop, epoch.stop):
                begins = epoch.start + (int(epoch.ends[i - 1]) if i else 0)
                ends = min(epoch.start + int(epoch.ends[i]), stop)
                if at < ends:
                    documents[at - start : ends - start] = document
                    document += 1
                    first = at - begins - 1  # −1 is the region's <s>
                    if first < 0:
                        ids[at - start] = BOS
                        at, first = at + 1, 0
                    here = slice(at - start, ends - start)
                    ids[here] = self._region_tokens(epoch, i, first, first + ends - at)
                    if weights is not None:
                        weights[here] = self._region_weights(epoch, i, first, first + ends - at)
                    at = ends
                i += 1
        return ids, documents, weights

    def _region_tokens(self, epoch: Epoch, i: int, start: int, stop: int) -> np.ndarray:
        if not self.k:
            return self.source.read(int(epoch.regions[i]), start, stop)
        codes = self.source.read(*self._region_slice(epoch, i, start, stop))
        return self.tokenizer.encode_bases(bases.reverse_complement(codes) if epoch.reverse[i] else codes)

    def _region_weights(self, epoch: Epoch, i: int, start: int, stop: int) -> np.ndarray:
        lower_case = self.source.lower_case(*self._region_slice(epoch, i, start, stop))
        if epoch.reverse[i]:
            lower_case = lower_case[::-1]
        return self._weights[lower_case.reshape(-1, self.k).sum(1)]

    def _region_slice(self, epoch: Epoch, i: int, start: int, stop: int) -> tuple[int, int, int]:
        """A region, and the range of bases, on its own strand, that its tokens [start, stop) of this epoch cover."""
        region = int(epoch.regions[i])
        low, high = (int(epoch.phases[i]) + self.k * n for n in (start, stop))
        if epoch.reverse[i]:
            length = int(self.source.index["length"][region])
            low, high = length - high, length - low
        return region, low, high

    def example(self, number: int) -> dict[str, np.ndarray]:
        """The `number`-th sequence of the run: `inputs` and `targets`, int32 [length], the targets one token later.

        With `mask_documents` also `segment_ids` (from 1) and `positions` (from 0 in each document), int32 [length];
        with a `repeat_weight` other than 1 also `weights` of the targets, float32 [length].
        """
        length = self.data.context_length
        start = self.window(number) * length
        ids, documents, weights = self.read(start, start + length + 1)
        example = {"inputs": ids[:-1], "targets": ids[1:]}
        if weights is not None:
            example["weights"] = weights[1:]
        if self.data.mask_documents:
            segments = documents[:-1] - documents[0] + 1
            starts = np.maximum.accumulate(np.where(np.diff(segments, prepend=0), np.arange(length), 0))
            example["segment_ids"] = segments.astype(np.int32)
            example["positions"] = (np.arange(length) - starts).astype(np.int32)
        return example

    def has_lower_case(self, max_bases: int = 2**24) -> bool:
        """Whether any of the first epoch's first `max_bases` bases is soft-masked; for datasets of bases."""
        regions = self._epoch(0).regions
        lengths = self.source.index["length"][regions].astype(np.int64)
        lengths = np.minimum(lengths, max_bases - np.cumsum(lengths) + lengths)  # what is left for each
        some = zip(regions[lengths > 0].tolist(), lengths[lengths > 0].tolist(), strict=True)
        return any(self.source.lower_case(region, 0, length).any() for region, length in some)

    def epoch_stats(self, epoch: int) -> dict[str, int]:
        """Bases of an epoch, `region_bases` = `kept` + `lost_at_start` + `lost_at_end`; its `tokens`, with <s>."""
        e = self._epoch(epoch)
        length = self.source.index["length"][e.regions].astype(np.int64)
        start, total = np.minimum(e.phases, length), int(length.sum())
        if self.k:
            end = int(((length - start) % self.k).sum())
        else:
            end = self.source.info["splits"][self.source.split]["remainder"]
        lost = {"lost_at_start": int(start.sum()), "lost_at_end": end}
        return {"region_bases": total, "kept": total - sum(lost.values()), **lost, "tokens": int(e.ends[-1])}


class _Rows:
    """Some rows of consecutive batches, as grain's random-access source."""

    def __init__(self, example: Callable[[int], dict], position: int, batch_size: int, rows: Sequence[int]):
        self.example, self.position, self.batch_size, self.rows = example, position, batch_size, rows

    def __len__(self) -> int:
        return sys.maxsize // 2  # endless; grain adds to it

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        batch, row = divmod(i, len(self.rows))
        return self.example(self.position + batch * self.batch_size + self.rows[row])


def read_batches(
    example: Callable[[int], dict], position: int, batch_size: int, rows: Sequence[int], *, num_workers=0, prefetch=4
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of a data source whose examples `example` reads by number; it must be picklable if there are workers.

    They are read in advance, by threads or by `num_workers` processes.
    """
    dataset = grain.MapDataset.source(_Rows(example, position, batch_size, rows)).batch(len(rows))
    # Few threads: the reads are small, and NumPy's part of the work holds the interpreter's lock.
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=prefetch))
    if num_workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags, which nothing here defines
        options = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(options, _ends_with_its_trainer)
    batches = iter(dataset)
    atexit.register(
        batches.close
    )  # before multiprocessing's own exit, which waits forever for workers that ignore its signal
    try:
        yield from batches
    finally:
        atexit.unregister(batches.close)
        batches.close()


def _ends_with_its_trainer(worker: int, workers: int) -> None:
    """Runs first in a worker process, which must end with the trainer and for no other reason.

    Batch systems send SIGTERM, and terminals an interrupt, to every process of a job, but the trainer still needs
    batches until it has saved; and a trainer that is killed would leave its workers running forever.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

    def watch(trainer):
        while os.getppid() == trainer:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


def own_rows(sharding: jax.sharding.Sharding, batch_size: int) -> list[int]:
    """The rows of a batch that this process must read: those of its devices, by the sharding of an array [rows]."""
    rows = set()
    for (index,) in sharding.addressable_devices_indices_map((batch_size,)).values():
        rows.update(range(*index.indices(batch_size)))
    return sorted(rows)


def to_devices(
    batch: dict[str, np.ndarray], shardings, batch_size: int | None = None, rows=None
) -> dict[str, jax.Array]:
    """A process's arrays as global arrays on the mesh: of whole batches, or of the given rows of `batch_size`.

    `shardings` is one sharding for all arrays, or one for each, by name.
    """

    at = None if rows is None else {row: i for i, row in enumerate(rows)}

    def part(x, index):
        if at is None:
            return x[index]
        start, stop, _ = index[0].indices(batch_size)  # a device's rows are contiguous here too
        return x[(slice(at[start], at[start] + stop - start), *index[1:])]

    def place(sharding, x):
        shape = x.shape if at is None else (batch_size, *x.shape[1:])
        # One by one: of the ways to make a global array, only this is an explicit transfer for the transfer guard.
        parts = [
            jax.device_put(part(x, index), device)
            for device, index in sharding.addressable_devices_indices_map(shape).items()
        ]
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)

    return jax.tree.map(place, jax.tree.broadcast(shardings, batch), batch)


def device_batches(
    source: DataSource, batch_size: int, position: int, num_batches: int, mesh: jax.sharding.Mesh, *, ahead: int = 2
) -> Iterator[dict[str, jax.Array]]:
    """Batches as global arrays on the mesh, `ahead` of them in flight while one is used; each process reads only the
    rows that its devices hold.
    """
    rows = own_rows(batch_sharding(mesh, ROWS), batch_size)
    shardings = {name: batch_sharding(mesh, axes) for name, axes in source.axes.items()}
    queue = collections.deque()
    for batch in itertools.islice(source.batches(position, batch_size, rows), num_batches):
        queue.append(to_devices(batch, shardings, batch_size, rows))
        if len(queue) > ahead:
            yield queue.popleft()
    while queue:
        yield queue.popleft()
