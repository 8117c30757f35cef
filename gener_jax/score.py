"""Scores variants, the bases of a region, or whole sequences with a model.

    gener-jax score --checkpoint tiny --fasta g.fa --vcf v.vcf --output t.tsv
    gener-jax score --checkpoint tiny --fasta g.fa --variant chr1:1234:T:A
    gener-jax score --checkpoint tiny --fasta g.fa --region chr1:101-200

Variants: `llr`, reference minus alternate, is positive if the model prefers the
reference. Bases: log-probabilities given the bases before them. Otherwise each
record's log-likelihood. Exit status 3: some rows have a flag with the reason.
"""

import collections
import contextlib
import functools
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline import cli
from data_pipeline.errors import MismatchError, one_line
from data_pipeline.formats import contigs, fasta, vcf
from data_pipeline.ranges import Whole
from gener_jax import __version__
from gener_jax.cli import command, loading
from gener_jax.config import Config
from gener_jax.inference.options import CHECKS, CONTEXT, PROTOCOL_ALIASES, PROTOCOLS, SCORES, STRANDS
from gener_jax.inference.prompt import Prompt, parse_prefix
from gener_jax.inference.variants.genome import Genome
from gener_jax.inference.variants.interval import Interval
from gener_jax.inference.variants.variant import Scored, Variant
from gener_jax.plotting import figure
from gener_jax.plotting import region as plots
from gener_jax.runtime import errors
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import Rate, log
from gener_jax.storage import tracks
from gener_jax.storage.resumable import ResumableFile

if TYPE_CHECKING:
    from gener_jax.inference.lm import LM
    from gener_jax.inference.variants.scoring import Scorer

VARIANT_COLUMNS = (
    *("contig", "pos", "id", "ref", "alt"),
    *("protocol", "strand", "llr", "spread", "log_p_ref", "log_p_alt", "flag"),
)
SEQUENCE_COLUMNS = ("name", "length", "score", "strand", "value", "bases", "unknown", "tokens", "oov", "flag")
_INFO = (
    ("GENER_PROTOCOL", "A", "String", "How the variant was scored"),
    ("GENER_LLR", "A", "Float", "Log-likelihood ratio, reference minus alternate: positive if the model prefers REF"),
    ("GENER_SPREAD", "A", "Float", "Standard deviation of GENER_LLR over phases"),
    ("GENER_FLAG", "A", "String", "Reason why there is no score"),
)
_RECORDS, _SEQUENCES = 256, 4096  # records of a VCF, and of a FASTA, per write
_BASES = 256  # bases of a saturation per write
_SUFFIXES = (".tsv", ".vcf", *tracks.BEDGRAPH, *tracks.BIGWIG)  # of outputs
_FILES = ("fasta", "vcf", "aliases")
_OPTIONS = {  # what each kind of output depends on besides --score, --strand and the files
    "vcf": ("protocol", "context", "phases"),
    "variants": ("protocol", "context", "phases", "variant"),
    "saturation": ("protocol", "context", "phases", "region"),
    "bases": ("context", "phases", "region"),
    "sequences": ("prefix",),
}
_BATCHES = 16  # batches of a FASTA per write, at most; with many, each holds rows of similar length


def number(value: float | None, digits: int = 6) -> str:
    """A number as text with so many significant digits; empty for None and NaN."""
    return "" if value is None or np.isnan(value) else f"{value:.{digits}g}"


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

    def finish(self, as_json: bool, make: Callable[[Path, Path], None] = os.replace, **facts) -> int:
        """Completes the file (`make`: see `ResumableFile`), prints counts and facts; returns the exit status."""
        if self._file is not None:
            counts = dict(self.counts)
            if "bases" not in counts:  # rows have flags
                counts = {"rows": self.counts.total(), **{name: self.counts[name] for name in ("scored", "flagged")}}
            cli.finish(self._file.finish({**counts, **facts}, make), as_json)
        return command.FLAGGED if self.counts["flagged"] else 0


def _vcf_header(lines: list[str], made_of: dict) -> str:
    """The header of a VCF and of our fields; `made_of`: the fingerprint of the output."""
    ours = ("##INFO=<ID=GENER_", "##gener_jax=")
    *lines, last = (line for line in lines if not line.startswith(ours))  # of an earlier run
    names = ("checkpoint", "step", "protocol", "score", "strand", "context", "phases")
    facts = {"version": __version__, **{name: made_of[name] for name in names}}
    lines.append("##gener_jax=" + " ".join(f"{name}={one_line(value)}" for name, value in facts.items()))
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


def _row(contig: str, pos: str | int, name: str, ref: str, alt: str, strand: str, s: Scored) -> str:
    # Of a window, the ratio is the small difference of two large numbers.
    numbers = number(s.llr), number(s.spread), number(s.log_p_ref, 10), number(s.log_p_alt, 10)
    return "\t".join([contig, str(pos), name, ref, alt, s.protocol, strand, *numbers, s.flag]) + "\n"


def _variant_scorer(lm: "LM", args) -> "Scorer":
    from gener_jax.inference.variants.scoring import Scorer

    with errors.user_errors(flags=vars(args)):
        return Scorer(
            lm, protocol=args.protocol, context=args.context, phases=args.phases, strand=args.strand,
            marginals=args.score == "base", batch_tokens=args.batch_tokens,
        )  # fmt: skip


def score_named(lm: "LM", args, fingerprint: dict) -> int:
    """Scores the variants of --variant; returns the exit status. On a terminal they are an aligned table."""
    scorer, genome = _variant_scorer(lm, args), Genome.read(args.fasta, args.aliases or ())
    with errors.user_errors(flags=vars(args)):
        variants = [Variant.parse(text) for text in args.variant]
    scores = list(scorer(variants, genome))
    rows = [
        _row(v.contig, v.start + 1, ".", v.ref, v.alt, args.strand, s) for v, s in zip(variants, scores, strict=True)
    ]
    header = "\t".join(VARIANT_COLUMNS) + "\n"
    if args.output is None and sys.stdout.isatty():
        columns = zip(*(row.rstrip("\n").split("\t") for row in (header, *rows)), strict=True)
        shown = [column for column in columns if any(x not in ("", ".") for x in column[1:])]
        widths = [max(map(len, column)) for column in shown]
        for row in zip(*shown, strict=True):
            print("  ".join(map(str.ljust, row, widths)).rstrip())
        return command.FLAGGED if any(s.flag for s in scores) else 0
    with Output(args.output, fingerprint, header, "variant", args.overwrite) as out:
        out.count(s.flag for s in scores[out.done :])
        out.write(rows[out.done :], len(rows) - out.done)
        return out.finish(args.json, context=args.context)


def score_bases(lm: "LM", args, fingerprint: dict) -> int:
    """Scores each base of --region, or of all records of the FASTA; returns the exit status."""
    from gener_jax.inference.region import Base, RegionScorer, find

    genome = Genome.read(args.fasta, args.aliases or ())
    with errors.user_errors(flags=vars(args)):
        scorer = RegionScorer(
            lm, given="tokens" if args.score == "base" else "bases", phases=args.phases, strand=args.strand,
            context=args.context, batch_tokens=args.batch_tokens,
        )  # fmt: skip
        regions = list(genome.intervals()) if args.region is None else [find(genome, args.region)[0]]
    names = {} if args.region is None else {genome.contig(regions[0].contig): regions[0].contig}  # as it was typed
    track = args.output is not None and args.output.suffix in (*tracks.BEDGRAPH, *tracks.BIGWIG)
    windows = max(_BATCHES * args.batch_tokens * lm.tokenizer.k // (2 * scorer.stride), 1)
    parts = [part for region in regions for part in _parts(region, windows * scorer.stride)]
    header = "" if track else "\t".join(Base._fields) + "\n"
    with Output(args.output, fingerprint, header, "part", args.overwrite) as out:
        rate = Rate("part", len(parts), out.done, rows_printed=args.output is None)
        for part in parts[out.done :]:
            scores = scorer(part, genome)
            out.counts.update(bases=len(scores.reference), unknown=int(np.isnan(scores.log_p).sum()))
            if track:
                rows = [tracks.bedgraph(part.contig, part.start, scores.log_p)]
            else:
                rows = ["\t".join([*map(str, row[:3]), *map(number, row[3:])]) + "\n" for row in scores.rows()]
            out.write(rows, 1)
            rate.update(1, len(scores.reference))
        rate.close()
        if args.logo is not None:
            figure.save(scorer(regions[0], genome).logo(), args.logo)
            log(f"{args.logo}: written")
        sizes = {names.get(contig, contig): size for contig, size in genome.sizes().items()}
        make = functools.partial(tracks.write_bigwig, sizes=sizes)
        as_bigwig = args.output is not None and args.output.suffix in tracks.BIGWIG
        return out.finish(args.json, make if as_bigwig else os.replace, context=scorer.context)


def score_saturation(lm: "LM", args, fingerprint: dict) -> int:
    """Scores all substitutions of --region; returns the exit status."""
    from gener_jax.inference.region import Saturation, Substitution, find, saturate

    scorer, genome = _variant_scorer(lm, args), Genome.read(args.fasta, args.aliases or ())
    with errors.user_errors(flags=vars(args)):
        region, _ = find(genome, args.region)
    found = []
    with Output(args.output, fingerprint, "\t".join(Substitution._fields) + "\n", "part", args.overwrite) as out:
        parts = list(_parts(region, _BASES))
        done = 0 if args.plot else min(out.done * _BASES, region.end - region.start)
        rate = Rate("base", region.end - region.start, done, rows_printed=args.output is None)
        for part in parts[0 if args.plot else out.done :]:  # the picture needs them all
            found.append(saturate(scorer, part, genome))
            if part.start >= region.start + out.done * _BASES:
                rows = list(found[-1].rows())
                out.count("not scored" if np.isnan(row.llr) else "" for row in rows)
                out.write(["\t".join([*map(str, row[:4]), *map(number, row[4:])]) + "\n" for row in rows], 1)
            rate.update(part.end - part.start, 3 * args.context * (part.end - part.start))
        rate.close()
        if args.plot is not None:
            reference = "".join(x.reference for x in found)
            llr, spread = (np.concatenate([getattr(x, name) for x in found]) for name in ("llr", "spread"))
            protocol = next((x.protocol for x in found if x.protocol), "")
            figure.save(Saturation(region, reference, protocol, llr, spread).plot(), args.plot)
            log(f"{args.plot}: written")
        return out.finish(args.json, context=args.context)


def _parts(region: Interval, step: int) -> Iterator[Interval]:
    """Yields the parts of a region, `step` bases each."""
    for start in range(region.start, region.end, step):
        yield region._replace(start=start, end=min(start + step, region.end))


def score_vcf(lm: "LM", args, fingerprint: dict, config: Config, folder: Path) -> int:
    """Scores the variants of the VCF; returns the exit status."""
    from gener_jax.inference.variants.overlap import ScoredBases, overlap

    scorer = _variant_scorer(lm, args)
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
        read = ""
        if args.aliases:
            known = set(itertools.chain(*contigs.read_aliases(args.aliases)))
            here, there = len(known & set(names)), len(known & set(genome.stretches))
            read = f"; of the {len(known)} names in {args.aliases}, {here} are in the VCF and {there} in the FASTA"
        raise MismatchError(
            f"none of its contigs ({ours}) is in {args.fasta} ({theirs}){read}", file=args.vcf,
            remedy="give the names of each contig in both files with --aliases, on one line, separated by tabs",
        )  # fmt: skip
    line = overlap(config.data.path, folder, lm.step, windows, args.check_overlap)
    log(line)
    as_vcf = args.output is not None and args.output.suffix == ".vcf"
    first = _vcf_header(header, fingerprint) if as_vcf else "\t".join(VARIANT_COLUMNS) + "\n"
    with Output(args.output, fingerprint, first, "record", args.overwrite) as out:
        rate = Rate("variant", alleles, out.counts.total(), rows_printed=args.output is None)
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
                given = (record.contig, record.position, record.id, record.ref)
                table = (_row(*given, alt, args.strand, s) for alt, s in zip(record.alts, own, strict=True))
                rows += [_annotated(record, own)] if as_vcf else table
            out.write(rows, len(block))
        rate.close()
        return out.finish(args.json, records=total, context=args.context, overlap=line)


def score_fasta(lm: "LM", args, special: np.ndarray, fingerprint: dict) -> int:
    """Scores the sequences of the FASTA after these special tokens; returns the exit status."""
    with Output(args.output, fingerprint, "\t".join(SEQUENCE_COLUMNS) + "\n", "sequence", args.overwrite) as out:
        rate = Rate("sequence", None, 0, rows_printed=args.output is None)
        k, longest = lm.tokenizer.k, lm.spec.model.max_length
        sequences = itertools.islice(fasta.read(args.fasta, flag=True), out.done, None)
        for group in fasta.groups(sequences, _SEQUENCES, _BATCHES * args.batch_tokens * k):
            flags = []
            for sequence in group:
                tokens = len(special) + -(-len(sequence.codes) // k)
                flags.append(sequence.problem or ("" if len(sequence.codes) else "empty"))
                if longest is not None and tokens > longest and not flags[-1]:
                    flags[-1] = (
                        f"needs {tokens} tokens of context, but the model was made for {longest}: cut it, or give "
                        f"--config.model.sliding_window={longest}"
                    )
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
            rate.update(len(group), sum(len(s.codes) for s, flag in zip(group, flags, strict=True) if not flag))
        rate.close()
        return out.finish(args.json)


def _check_pictures(args) -> None:
    """Checks --saturation, --plot and --logo before any work.

    Raises:
      ConfigError: if one lacks what it needs, or shows a region that is too long.
    """
    alone = None if args.saturation else args.region
    for flag, given, needed, what in (
        ("--saturation", args.saturation or None, args.region, "--region"),
        ("--plot", args.plot, args.saturation, "--region and --saturation"),
        ("--logo", args.logo, alone, "--region, without --saturation"),
    ):
        if given is None:
            continue
        if not needed:
            raise ConfigError(f"{flag} needs {what}", None)
        if given is not True and given.suffix not in figure.FORMATS:
            raise ConfigError(f"give a name that ends in {', '.join(figure.FORMATS)}", flag, str(given))
        where = Interval.parse(args.region)
        if given is not True and where is not None and where.end - where.start > plots.LONGEST:
            raise ConfigError(f"a picture shows at most {plots.LONGEST} bases", "--region", args.region)
    if args.logo is not None and importlib.util.find_spec("logomaker") is None:
        raise ConfigError("needs pip install -e '.[tracks]'", "--logo", str(args.logo))


def main(argv=None) -> int:
    """Runs the command; returns its exit status."""
    program = command.Command(__doc__, checkpoint=True)
    add, what = program.parser.add_argument, program.parser.add_mutually_exclusive_group().add_argument
    loading.add_options(program.parser)
    what("--vcf", type=Path, help="score its variants instead of the FASTA's sequences")
    what("--variant", action="append", metavar="NAME", help="as in VCF, or in quotes 'NC_1.1:g.9T>A'; repeatable")
    what("--region", metavar="NAME", help="each base of a region, 1-based as chr1:101-200")
    add("--saturation", action="store_true", help="all substitutions in the region, as variants")
    add("--plot", type=Path, help="the saturation as a heat map: .png, .svg or .pdf")
    add("--logo", type=Path, help="the region as a sequence logo, likewise")
    add("--output", type=Path, help=".tsv, .vcf, .bedgraph, .bg, .bw, .bigwig [printed]")
    add("--score", choices=SCORES, default="token", help="exact, or mean log-marginals of bases")
    add("--strand", choices=STRANDS, default="+", help="both: the mean of the two")
    add("--protocol", metavar="NAME", choices=(*PROTOCOLS, *PROTOCOL_ALIASES), default="next_kmer",
        help="window: both sides; equal_window: windows of one length")  # fmt: skip
    add("--context", type=Whole(1), metavar="BASES", help=f"[{CONTEXT}, or what the model has room for]")
    add("--phases", type=Whole(1), default=1, help="6: the mean over all positions in a 6-mer")
    add("--aliases", type=Path, help="names of contigs: a line each, or an NCBI report")
    add("--check_overlap", metavar="WHEN", choices=CHECKS, default="auto",
        help="with training data: auto (to 2 Gb), always, never")  # fmt: skip
    args, config, folder = program.parse(argv)
    track = args.output is not None and args.output.suffix in (*tracks.BEDGRAPH, *tracks.BIGWIG)
    chosen = {"vcf": args.vcf, "variants": args.variant, "saturation": args.saturation, "bases": args.region or track}
    mode = next((name for name, value in chosen.items() if value), "sequences")
    of_variants = "protocol" in _OPTIONS[mode]
    _check_pictures(args)
    if mode != "sequences" and args.prefix:
        raise ConfigError("applies to sequences, not to variants and regions", "--prefix", args.prefix)
    if str(args.vcf) == "-":
        raise ConfigError("cannot be standard input, as it is read more than once; give a file", "--vcf", "-")
    if args.output is None and args.json:
        raise ConfigError("needs --output, since standard output holds the table", "--json", True)
    if args.output is not None:
        if args.output.is_dir():
            raise ConfigError("is a folder; give the name of a file", "--output", str(args.output))
        if args.output.suffix not in _SUFFIXES:
            raise ConfigError(f"give a name that ends in {', '.join(_SUFFIXES)}", "--output", str(args.output))
        if (args.output.suffix == ".vcf" and not args.vcf) or (track and of_variants):
            raise ConfigError("this is written as a table; give a name that ends in .tsv", "--output", str(args.output))
        if args.output.suffix in tracks.BIGWIG and importlib.util.find_spec("pyBigWig") is None:
            raise ConfigError(
                "needs pip install -e '.[tracks]'; or give a name that ends in .bedgraph", "--output",
                str(args.output),
            )  # fmt: skip
    if of_variants and args.score == "base" and PROTOCOL_ALIASES.get(args.protocol, args.protocol) != "window":
        raise ConfigError("of variants needs --protocol window", "--score", "base")
    if config.tokenizer.kind != "kmer":
        raise ConfigError("scoring needs a k-mer tokenizer", "tokenizer.kind", config.tokenizer.kind)

    from gener_jax.inference import region
    from gener_jax.inference.variants import scoring

    if args.context is None:
        args.context = (region if mode == "bases" else scoring).default_context(config.spec)
    special = parse_prefix(args.prefix)
    if mode != "sequences":
        log(f"context: {args.context} bases")
    lm, fingerprint = loading.load(args, config, folder, ("score", "strand", *_OPTIONS[mode]), _FILES)
    if mode == "vcf":
        return score_vcf(lm, args, fingerprint, config, folder)
    if mode == "sequences":
        return score_fasta(lm, args, special, fingerprint)
    return {"variants": score_named, "saturation": score_saturation, "bases": score_bases}[mode](lm, args, fingerprint)


if __name__ == "__main__":
    command.run(main)
