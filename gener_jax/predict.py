"""Predicts classes, labels or values of sequences with a fine-tuned model.

    gener-jax predict --checkpoint runs/tata --input new.csv --output found.tsv

The input is CSV, TSV, JSON lines, Parquet or FASTA, plain or gzip. The output is
TSV, or CSV by its name, with a line per row: its number, its id or name, what is
predicted, and a column for the probability of each class; of a regression, for
each value in the unit of the training labels. A row that cannot be predicted has
a flag with the reason and no numbers, and the exit status is 3. Of a run, the
best checkpoint is used. After a stop the same command resumes.

A model with labels per base (finetune.problem token) reads FASTA and writes
GFF3: a feature per run of bases of one class, with its mean probability.

    gener-jax predict --checkpoint runs/genes --input chr1.fa --output chr1.gff3
"""

import csv
import dataclasses
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

from data_pipeline import cli
from data_pipeline.formats import fasta
from gener_jax.cli import command, loading
from gener_jax.labelled import annotation, problem, table
from gener_jax.runtime import errors
from gener_jax.runtime.errors import ConfigError, InputError
from gener_jax.runtime.progress import Rate, log
from gener_jax.storage.resumable import ResumableFile

IDENTIFIERS = ("id", "name")  # columns of the input that are copied, in any case
_SEQUENCES = 4096  # per write, at most
_BATCHES = 16  # per write, at most
_DELIMITERS = {".tsv": "\t", ".csv": ","}


def _groups(sequences: list[str], first: int, most_bases: int) -> Iterator[range]:
    """Yields consecutive rows from `first` on, of as many sequences and bases as are written at a time."""
    start, bases = first, 0
    for i in range(first, len(sequences)):
        if i > start and (i - start >= _SEQUENCES or bases + len(sequences[i]) > most_bases):
            yield range(start, i)
            start, bases = i, 0
        bases += len(sequences[i])
    if start < len(sequences):
        yield range(start, len(sequences))


def _lines(rows: list[list], delimiter: str) -> bytes:
    """Rows as text; a value that holds the delimiter or a line break is quoted."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _annotate(args, config, folder) -> int:
    """Labels the bases of each record of a FASTA."""
    lm, fingerprint = loading.load(args, config, folder, (), ("input",))
    from gener_jax.inference.annotation import check
    from gener_jax.inference.prompt import Prompt

    with errors.user_errors("--checkpoint", flags=vars(args)):
        fingerprint["head"] = dataclasses.asdict(check(lm))
    with ResumableFile(args.output, fingerprint, "record", overwrite=args.overwrite) as out:
        rate = Rate("record", None, out.done)
        records = itertools.islice(fasta.read(args.input), out.done, None)
        for group in fasta.groups(records, _SEQUENCES, _BATCHES * args.batch_tokens * lm.tokenizer.k):
            found = lm.annotate([Prompt((), x.codes) for x in group], batch_tokens=args.batch_tokens)
            text = [annotation.gff3(x.name, values, lm.head.names) for x, values in zip(group, found, strict=True)]
            header = annotation.GFF3 * (out.done == 0)
            out.append((header + "".join(text)).encode(), out.done + len(group))
            rate.update(len(group), sum(len(x.codes) for x in group))
        rate.close()
        cli.finish(out.finish({"records": out.done}), args.json)
    return 0


def main(argv=None) -> int:
    """Runs the command; returns its exit status."""
    program = command.Command(__doc__, checkpoint=True)
    add = program.parser.add_argument
    add("--input", type=Path, metavar="FILE", required=True, help="the table or FASTA of the sequences")
    add("--output", type=Path, metavar="FILE", required=True, help="the .tsv or .csv file to write")
    add("--sequence", metavar="COLUMN", help="of the sequences [the only one called sequence, seq, …]")
    loading.add_batches(program.parser)
    args, config, folder = program.parse(argv)
    if args.output.suffix in (".gff3", ".gff"):
        return _annotate(args, config, folder)
    if (delimiter := _DELIMITERS.get(args.output.suffix)) is None:
        raise ConfigError("give a name in .tsv or .csv; for labels per base in .gff3", "--output", str(args.output))
    rows = table.read(args.input)
    sequences = rows.columns[problem.sequence_column(rows, args.sequence, "--sequence")]
    copied = [name for name in rows.columns if name.lower() in IDENTIFIERS]

    from gener_jax.inference import prediction
    from gener_jax.inference.prompt import as_prompt

    lm, fingerprint = loading.load(args, config, folder, ("sequence",), ("input",))
    with errors.user_errors("--checkpoint", flags=vars(args)):
        framing = prediction.framing_of(lm)
    fingerprint["head"] = dataclasses.asdict(lm.head)
    columns = prediction.columns(lm.head)
    with ResumableFile(args.output, fingerprint, "row", overwrite=args.overwrite) as out:
        flagged, first = out.facts.get("flagged", 0), out.facts.get("first", "")
        rate = Rate("sequence", len(rows), out.done)
        header = _lines([["row", *copied, *columns, "flag"]], delimiter)
        for group in _groups(sequences, out.done, _BATCHES * args.batch_tokens * lm.tokenizer.k):
            framed, problems = [], []
            for i in group:
                try:
                    framed.append(prediction.framed_strands(framing, as_prompt(sequences[i].strip(), "it"), "it"))
                    problems.append("")
                except InputError as error:
                    problems.append(error.problem)
                    first = first or f"row {i + 1} {error.problem}"
            found = prediction.of_framed(lm, framed, args.batch_tokens).rows()
            lines = []
            for i, flag in zip(group, problems, strict=True):
                values = [""] * len(columns) if flag else next(found)
                cells = [f"{x:.6g}" if isinstance(x, float) else x for x in values]
                lines.append([i + 1, *(rows.columns[name][i] for name in copied), *cells, flag])
            flagged += sum(map(bool, problems))
            data = header * (out.done == 0) + _lines(lines, delimiter)
            out.append(data, group.stop, flagged=flagged, first=first)
            rate.update(len(group), sum(len(sequences[i]) for i, flag in zip(group, problems, strict=True) if not flag))
        rate.close()
        if flagged:
            log(f"{flagged:,} of {len(rows):,} rows are not predicted, the first for this: {first}")
        cli.finish(out.finish({"rows": len(rows), "flagged": flagged}), args.json)
    return command.FLAGGED if flagged else 0


if __name__ == "__main__":
    command.run(main)
