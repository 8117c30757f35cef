"""Scores variants or sequences with a model.

    python -m gener_jax.score --checkpoint RUN --vcf V.vcf.gz --fasta F.fa.gz --output T.tsv
    python -m gener_jax.score --checkpoint RUN --fasta F.fa.gz --output T.tsv

Variants: one row per record and alternate allele, in the order of the VCF. The column `llr` is the log-likelihood
ratio, reference minus alternate: positive if the model prefers the reference allele. If the output is named .vcf, it is
the input with GENER_* fields added to INFO. Sequences: one row per FASTA record with its log-likelihood. If a record
cannot be scored, the column `flag` gives the reason, and the exit status is 3. Memory holds the bases of the FASTA and
one batch. After a stop, the same command resumes.
"""

import collections
import contextlib
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline import cli
from data_pipeline.errors import MismatchError
from data_pipeline.formats import fasta, vcf
from data_pipeline.ranges import Whole
from gener_jax.cli import command, loading
from gener_jax.config import Config
from gener_jax.inference.options import CHECKS, CONTEXT, PROTOCOL_ALIASES, PROTOCOLS, SCORES, STRANDS
from gener_jax.inference.prompt import Prompt, parse_prefix
from gener_jax.inference.variants.genome import Genome
from gener_jax.inference.variants.variant import Scored, Variant
from gener_jax.runtime import errors
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import Rate, log
from gener_jax.storage.resumable import ResumableFile

if TYPE_CHECKING:
    from gener_jax.inference.lm import LM

VARIANT_COLUMNS = ("contig", "pos", "id", "ref", "alt", "protocol", "llr", "spread", "log_p_ref", "log_p_alt", "flag")
SEQUENCE_COLUMNS = ("name", "length", "score", "strand", "value", "bases", "unknown", "tokens", "oov", "flag")
_INFO = (
    ("GENER_PROTOCOL", "A", "String", "How the variant was scored"),
    ("GENER_LLR", "A", "Float", "Log-likelihood ratio, reference minus alternate: positive if the model prefers REF"),
    ("GENER_SPREAD", "A", "Float", "Standard deviation of GENER_LLR over phases"),
    ("GENER_FLAG", "A", "String", "Reason why there is no score"),
)
_RECORDS, _SEQUENCES = 256, 4096  # records of a VCF, and of a FASTA, per write
_BATCHES = 16  # batches of a FASTA per write, at most; with many, each holds rows of similar length


def number(value: float | None) -> str:
    """A number as text with six significant digits; empty for None and NaN."""
    return "" if value is None or np.isnan(value) else f"{value:.6g}"


class Output(contextlib.AbstractContextManager):
    """Writes rows in order, to a resumable file or to standard output, and counts those that are flagged."""

    def __init__(self, path: Path | None, fingerprint: dict, header: str, unit: str, overwrite: bool):
        self._file = None if path is None else ResumableFile(path, fingerprint, unit, overwrite=overwrite)
        self.done = 0 if path is None else self._file.done
        self.counts = collections.Counter({} if path is None else self._file.facts.get("counts", {}))
        if not self.done:
            self.write([header], 0)

    def __exit__(self, *error):
        if self._file is not None:
            self._file.__exit__(*error)

    def count(self, flags: Iterable[str]) -> None:
        """Counts scores by their flags; empty: not flagged."""
        self.counts.update("flagged" if flag else "scored" for flag in flags)

    def write(self, rows: list[str], records: int) -> None:
        """Writes the rows of `records` further records, which are counted already."""
        self.done += records
        if self._file is None:
            print("".join(rows), end="", flush=True)
        else:
            self._file.append("".join(rows).encode(), self.done, counts=dict(self.counts))

    def finish(self, as_json: bool, **facts) -> int:
        """Completes the file and prints the counts and facts; returns the exit status."""
        if self._file is not None:
            cli.finish(self._file.finish({**self.counts, **facts}), as_json)
        return command.FLAGGED if self.counts["flagged"] else 0


def _variant_header(lines: list[str], as_vcf: bool) -> str:
    if not as_vcf:
        return "\t".join(VARIANT_COLUMNS) + "\n"
    *lines, last = (line for line in lines if not line.startswith("##INFO=<ID=GENER_"))  # of an earlier run
    lines += [f'##INFO=<ID={n},Number={c},Type={t},Description="{d}">' for n, c, t, d in _INFO]
    missing = ("QUAL", "FILTER", "INFO")[max(last.count("\t") - 4, 0) :]
    return "\n".join([*lines, "\t".join([last, *missing])]) + "\n"


def _annotated(record: vcf.Record, scores: list[Scored]) -> str:
    fields = record.text.split("\t")
    fields += ["."] * (8 - len(fields))
    flags = [s.flag.translate(str.maketrans(" ;=,\t", "_:::_")) or "." for s in scores]
    values = {
        "GENER_PROTOCOL": [s.protocol or "." for s in scores],
        "GENER_LLR": [number(s.llr) or "." for s in scores],
        "GENER_SPREAD": [number(s.spread) or "." for s in scores],
        "GENER_FLAG": flags,
    }
    added = [f"{n}={','.join(v)}" for n, v in values.items() if set(v) != {"."}]
    kept = [x for x in fields[7].split(";") if x not in (".", "") and not x.startswith("GENER_")]
    fields[7] = ";".join(kept + added) or "."
    return "\t".join(fields) + "\n"


def _rows(record: vcf.Record, scores: list[Scored]) -> list[str]:
    rows = []
    for alt, s in zip(record.alts, scores, strict=True):
        row = (
            record.contig, record.position, record.id, record.ref, alt, s.protocol, number(s.llr), number(s.spread),
            number(s.log_p_ref), number(s.log_p_alt), s.flag,
        )  # fmt: skip
        rows.append("\t".join(map(str, row)) + "\n")
    return rows


def score_vcf(lm: "LM", args, fingerprint: dict, config: Config, folder: Path) -> int:
    """Scores the variants of the VCF; returns the exit status."""
    from gener_jax.inference.variants.overlap import ScoredBases, overlap
    from gener_jax.inference.variants.scoring import Scorer

    with errors.user_errors(flags=vars(args)):
        scorer = Scorer(
            lm, protocol=args.protocol, context=args.context, phases=args.phases, strand=args.strand,
            marginals=args.score == "base", batch_tokens=args.batch_tokens,
        )  # fmt: skip
    header, records = vcf.read(args.vcf)
    genome = Genome.read(args.fasta, args.aliases or ())
    # The VCF is read twice, which takes seconds, because what the first pass finds should be known before the hours of
    # the second: damage at the end of the file, other names of contigs, bases that the model was trained on, and how
    # much there is to do.
    windows, total, alleles, names = ScoredBases(genome, args.context), 0, 0, {}
    for record in records:
        if not record.problem:
            names[record.contig] = True
            windows.add(record.contig, record.start)
        total += 1
        alleles += len(record.alts)
    if names and not any(map(genome.contig, names)):
        ours, theirs = (", ".join([*itertools.islice(x, 3), "…"]) for x in (names, genome.stretches))
        raise MismatchError(
            f"none of its contigs ({ours}) is in {args.fasta} ({theirs})",
            file=args.vcf, remedy="give the names of each contig in both files with --aliases",
        )  # fmt: skip
    line = overlap(config.data.path, folder, lm.step, windows, args.check_overlap)
    log(line)
    log(f"context: {args.context} bases")
    as_vcf = args.output is not None and args.output.suffix == ".vcf"
    with Output(args.output, fingerprint, _variant_header(header, as_vcf), "record", args.overwrite) as out:
        rate = Rate("variant", alleles, out.counts.total())
        # Blocks have a fixed number of records, so that after a stop the batches, and with them the last digits, are
        # the same.
        records = itertools.islice(vcf.read(args.vcf)[1], out.done, None)
        while block := list(itertools.islice(records, _RECORDS)):
            good = (record for record in block if not record.problem)
            scores = scorer((Variant(r.contig, r.start, r.ref, alt) for r in good for alt in r.alts), genome)
            rows = []
            for record in block:
                flagged = itertools.repeat(Scored("", flag=record.problem))
                own = list(itertools.islice(flagged if record.problem else scores, len(record.alts)))
                out.count(s.flag for s in own)
                rate.update(len(own), args.context * args.phases * len(own))
                rows += [_annotated(record, own)] if as_vcf else _rows(record, own)
            out.write(rows, len(block))
        rate.close()
        return out.finish(args.json, records=total, context=args.context, overlap=line)


def score_fasta(lm: "LM", args, special: np.ndarray, fingerprint: dict) -> int:
    """Scores the sequences of the FASTA after these special tokens; returns the exit status."""
    with Output(args.output, fingerprint, "\t".join(SEQUENCE_COLUMNS) + "\n", "sequence", args.overwrite) as out:
        rate, k, longest = Rate("sequence", None, 0), lm.tokenizer.k, lm.spec.model.max_length
        sequences = itertools.islice(fasta.read(args.fasta, flag=True), out.done, None)
        for group in fasta.groups(sequences, _SEQUENCES, _BATCHES * args.batch_tokens * k):
            flags = []
            for sequence in group:
                tokens = len(special) + -(-len(sequence.codes) // k)
                flags.append(sequence.problem or ("" if len(sequence.codes) else "empty"))
                if longest is not None and tokens > longest and not flags[-1]:
                    flags[-1] = f"needs {tokens} tokens of context, but the model was made for {longest}"
            good = [Prompt(special, s.codes) for s, flag in zip(group, flags, strict=True) if not flag]
            with errors.user_errors(flags=vars(args)):
                scores = iter(
                    lm.log_likelihood(good, score=args.score, strand=args.strand, batch_tokens=args.batch_tokens)
                )
            rows = []
            for i, sequence in enumerate(group):
                cells = [""] * 5
                if not flags[i]:
                    s = next(scores)
                    flags[i] = "" if s.bases else "no known base"
                    cells = [number(s.value), s.bases, s.unknown, s.tokens, s.oov]
                row = (sequence.name, len(sequence.codes), args.score, args.strand, *cells, flags[i])
                rows.append("\t".join(map(str, row)) + "\n")
            out.count(flags)
            out.write(rows, len(group))
            rate.update(len(group), sum(len(s.codes) for s in group))
        rate.close()
        return out.finish(args.json)


def main(argv=None) -> int:
    """Runs the command; returns its exit status."""
    program = command.Command(__doc__, checkpoint=True)
    add = program.parser.add_argument
    loading.add_options(program.parser)
    add("--vcf", type=Path, metavar="FILE", help="score its variants instead of the FASTA's sequences")
    add("--output", type=Path, metavar="FILE", help="TSV, or VCF if named .vcf [TSV on standard output]")
    add(
        "--score",
        choices=SCORES,
        default="token",
        help="token: exact log-likelihoods; base: mean log-marginals of the bases [token]",
    )
    add("--strand", choices=STRANDS, default="+", help="the strand that is scored; both: the mean of the two [+]")
    add(
        "--protocol",
        choices=(*PROTOCOLS, *PROTOCOL_ALIASES),
        default="next_kmer",
        help="next_kmer (or right_edge): the alleles as continuations of the bases before the variant, in nats; window "
        "(or centred): the windows around the variant, in nats per k-mer; both reference minus alternate [next_kmer]",
    )
    add(
        "--context",
        type=Whole(1),
        metavar="BASES",
        help=f"bases before the variant (next_kmer) or around it (window) [{CONTEXT}, or what the model has room for]",
    )
    add(
        "--phases",
        type=Whole(1),
        default=1,
        help="1; or k (6 for 6-mers): the mean over all positions of the variant in its k-mer, with the spread [1]",
    )
    add(
        "--aliases",
        type=Path,
        metavar="FILE",
        help="the names of one contig per line, separated by tabs, or an NCBI assembly report",
    )
    add("--check_overlap", choices=CHECKS, default="auto",
        help="compare the windows of variants with the model's training data [auto: if it has up to 2 Gb]")  # fmt: skip
    args, config, folder = program.parse(argv)
    if args.vcf and args.prefix:
        raise ConfigError("applies to sequences, not to --vcf", "--prefix", args.prefix)
    if str(args.vcf) == "-":
        raise ConfigError("cannot be standard input, as it is read more than once; give a file", "--vcf", "-")
    if args.output is None and args.json:
        raise ConfigError("needs --output, since standard output holds the table", "--json", True)
    if args.output is not None:
        if args.output.suffix in (".gz", ".bgz", ".bcf"):
            raise ConfigError(
                "output is not compressed; give a name that ends in .tsv or .vcf", "--output", str(args.output)
            )
        if args.output.suffix == ".vcf" and not args.vcf:
            raise ConfigError(
                "sequences are written as a table; give a name that ends in .tsv", "--output", str(args.output)
            )
    if args.vcf and args.score == "base" and PROTOCOL_ALIASES.get(args.protocol, args.protocol) != "window":
        raise ConfigError("of variants needs --protocol window", "--score", "base")
    if config.tokenizer.kind != "kmer":
        raise ConfigError("scoring needs a k-mer tokenizer", "tokenizer.kind", config.tokenizer.kind)

    from gener_jax.inference.variants.scoring import default_context

    if args.context is None:
        args.context = default_context(config.spec)
    special = parse_prefix(args.prefix)
    options = ("score", "strand") + (("protocol", "context", "phases") if args.vcf else ("prefix",))
    lm, fingerprint = loading.load(args, config, folder, options, ("fasta", "vcf", "aliases"))
    if args.vcf:
        return score_vcf(lm, args, fingerprint, config, folder)
    return score_fasta(lm, args, special, fingerprint)


if __name__ == "__main__":
    command.run(main)
