"""Embeds the sequences of a FASTA file.

    gener-jax embed --checkpoint tiny --fasta genes.fa.gz --output genes.npz

The file holds names, flags and embeddings, float32 [sequences, chunks·hidden];
with --pooling tokens [all tokens, hidden], and tokens, their number by sequence.
A sequence that cannot be embedded has a flag with the reason and NaN, and the
exit status is 3. After a stop the same command resumes.
"""

import collections
import dataclasses
import functools
import importlib.util
import itertools
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np

from data_pipeline import cli
from data_pipeline.files import atomic
from data_pipeline.formats import fasta
from data_pipeline.ranges import Whole
from gener_jax.cli import command, loading
from gener_jax.inference.options import POOLINGS
from gener_jax.inference.prompt import Prompt, parse_prefix
from gener_jax.runtime import errors
from gener_jax.runtime.errors import ConfigError, InputError
from gener_jax.runtime.progress import Rate, log
from gener_jax.storage.resumable import ResumableFile

_SEQUENCES = 4096  # sequences per write
_ROWS = 256  # rows of a table in memory at a time
_BLOCK = 1 << 24  # bytes copied at a time


def write_npz(
    raw: Path, output: Path, width: int, names: list[str], flags: list[str], tokens: list[int] | None
) -> None:
    """Writes the .npz file atomically from `raw`, float32 rows of `width`, without reading all of it into memory."""
    rows = raw.stat().st_size // (4 * width)
    with atomic(output) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        arrays = {"names": np.array(names, str), "flags": np.array(flags, str)}
        arrays |= {} if tokens is None else {"tokens": np.array(tokens, np.int64)}
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        with archive.open("embeddings.npy", "w", force_zip64=True) as file, raw.open("rb") as source:
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
            np.lib.format.write_array_header_1_0(file, header)
            while block := source.read(_BLOCK):
                file.write(block)


def write_parquet(
    raw: Path, output: Path, width: int, names: list[str], flags: list[str], tokens: list[int] | None
) -> None:
    """Writes the .parquet file likewise, one row per sequence; the embeddings of its tokens are concatenated."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sizes = [width] * len(names) if tokens is None else [n * width for n in tokens]
    schema = pa.schema([("name", pa.string()), ("flag", pa.string()), ("embedding", pa.list_(pa.float32()))])
    with raw.open("rb") as source, atomic(output) as partial, pq.ParquetWriter(partial, schema) as writer:
        for first in range(0, len(names), _ROWS):
            chosen = slice(first, first + _ROWS)
            rows = [np.frombuffer(source.read(4 * size), "<f4") for size in sizes[chosen]]
            columns = {"name": names[chosen], "flag": flags[chosen], "embedding": rows}
            writer.write_table(pa.table(columns, schema=schema))


def main(argv=None) -> int:
    """Runs the command; returns its exit status."""
    program = command.Command(__doc__, checkpoint=True)
    add = program.parser.add_argument
    loading.add_options(program.parser)
    add("--output", type=Path, metavar="FILE", required=True, help="the .npz or .parquet file to write")
    add("--pooling", choices=POOLINGS, default="last", help="how a sequence's tokens are pooled")
    add("--layer", type=Whole(), help="0: the embedding; i: after layer i [after the last norm]")
    add("--chunks", type=Whole(1), default=1, help="embed a sequence in so many chunks, concatenated")
    add("--remainder", choices=("oov", "trim_left", "pad_left"), default="oov", help="bases left over at the end")
    add("--prompt_convention", choices=("v1", "v2"), help="how sequences are framed [the model's]")
    args, config, folder = program.parse(argv)
    special = parse_prefix(args.prefix)
    writers = {".npz": write_npz, ".parquet": write_parquet}
    if args.output.suffix not in writers:
        raise ConfigError("give a name that ends in .npz or .parquet", "--output", str(args.output))
    if args.output.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(
            "needs pip install -e '.[parquet]'; or give a name that ends in .npz", "--output", str(args.output)
        )
    if args.prompt_convention:
        config = dataclasses.replace(config, prompt_convention=args.prompt_convention)
    options = {n: getattr(args, n) for n in ("pooling", "layer", "chunks", "remainder")}

    from gener_jax.inference.embeddings import UNKNOWN, frames, unknown

    lm, fingerprint = loading.load(args, config, folder, (*options, "prefix"), ("fasta",))
    with errors.user_errors(flags=vars(args)):
        lm.embed((), batch_tokens=args.batch_tokens, **options)  # wrong options are found before an output is begun
    with ResumableFile(args.output, fingerprint, "sequence", overwrite=args.overwrite) as out:
        names, tokens, flags = (out.facts.get(name, []) for name in ("names", "tokens", "flags"))
        rate = Rate("sequence", None, 0)
        per_token = args.pooling == "tokens"
        width = lm.spec.model.hidden_size * (1 if per_token else args.chunks)
        without = []  # names of sequences that are embedded as <oov>
        missing = np.full((0 if per_token else 1, width), np.nan, "<f4")  # of a sequence that is flagged

        def flag(sequence: fasta.Sequence) -> str:
            if sequence.problem or not len(sequence.codes):
                return sequence.problem or "empty"
            try:
                rows = frames(lm, Prompt(special, sequence.codes), "sequence", args.chunks, args.remainder)
            except InputError as error:
                if error.argument != "sequence":
                    raise
                return error.problem
            if any(map(unknown, rows)):
                without.append(sequence.name)
            return ""

        batches = 4 if per_token else 16  # per write, at most; the states of all tokens are large
        sequences = itertools.islice(fasta.read(args.fasta, flag=True), out.done, None)
        for group in fasta.groups(sequences, _SEQUENCES, batches * args.batch_tokens * lm.tokenizer.k):
            with errors.user_errors(flags=vars(args)), warnings.catch_warnings():
                warnings.filterwarnings("ignore", re.escape(UNKNOWN))  # said below, with the names
                own = [flag(sequence) for sequence in group]
                good = [Prompt(special, s.codes) for s, problem in zip(group, own, strict=True) if not problem]
                found = iter(lm.embed(good, batch_tokens=args.batch_tokens, **options))
            states = [missing if problem else next(found).reshape(-1, width) for problem in own]
            names += [s.name for s in group]
            tokens += map(len, states)
            flags += own
            data = b"".join(np.ascontiguousarray(x, "<f4").tobytes() for x in states)
            out.append(data, len(names), names=names, tokens=tokens, flags=flags)
            rate.update(len(group), sum(len(s.codes) for s, problem in zip(group, own, strict=True) if not problem))
        rate.close()
        if without:
            first = ", ".join([*without[:3], *["…"] * (len(without) > 3)])
            log(f"warning: {first}: {UNKNOWN.replace('remainder=', '--remainder=')}")
        flagged = sum(map(bool, flags))
        if flagged:
            kinds = collections.Counter(re.sub(r"\d+", "…", flag) for flag in flags if flag).most_common(1)
            example = next(flag for flag in flags if re.sub(r"\d+", "…", flag) == kinds[0][0])
            remedy = "; --chunks embeds long sequences in parts" if "the model was made for" in example else ""
            log(f"{flagged:,} of {len(flags):,} sequences are not embedded, most often for this: {example}{remedy}")
        make = functools.partial(
            writers[args.output.suffix], width=width, names=names, flags=flags, tokens=tokens if per_token else None
        )
        cli.finish(out.finish({"sequences": len(names), "flagged": flagged, "width": width}, make), args.json)
    return command.FLAGGED if flagged else 0


if __name__ == "__main__":
    command.run(main)
