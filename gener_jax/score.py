"""Scores variants or sequences with a model.

    python -m gener_jax.score --checkpoint RUN --vcf V.vcf.gz --fasta F.fa.gz --output T.tsv
    python -m gener_jax.score --checkpoint RUN --fasta F.fa.gz --output T.tsv

Variants: one row per record and alternate allele, in the order of the VCF. The column `llr` is the log-likelihood
ratio, reference minus alternate: positive if the model prefers the reference allele. If the output is named .vcf, it is
the input with GENER_* fields added to INFO. Sequences: one row per FASTA record with its log-likelihood. If a record
cannot be scored, the column `flag` gives the reason. Memory holds the bases of the FASTA and one batch. After a stop,
the same command resumes.
"""

import collections
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.dataset.reader import RegionSource, read_info
from data_pipeline.errors import DataError, MismatchError
from data_pipeline.formats import fasta, vcf
from data_pipeline.sequence import bases, kmers
from data_pipeline.splitting import leakage
from gener_jax.cli import command
from gener_jax.config import Config, dumps
from gener_jax.inference.batches import TOKENS, TOKENS_ACCELERATED, tokens_per_batch
from gener_jax.inference.likelihood import SCORES, STRANDS
from gener_jax.inference.lm import LM, from_spec
from gener_jax.inference.prompt import Prompt, parse_prefix
from gener_jax.inference.variants.genome import Genome
from gener_jax.inference.variants.protocols import CONTEXT, PROTOCOL_ALIASES, PROTOCOLS, Scored
from gener_jax.inference.variants.variant import Variant
from gener_jax.runtime import errors
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import Rate, log
from gener_jax.storage import run_folder
from gener_jax.storage.compilation import keep_programs
from gener_jax.storage.files import ResumableFile, of_file

VARIANT_COLUMNS = ("contig", "pos", "id", "ref", "alt", "score", "llr", "spread", "log_p_ref", "log_p_alt", "flag")
SEQUENCE_COLUMNS = ("name", "length", "score", "strand", "value", "bases", "unknown", "tokens", "oov", "flag")
_INFO = (
    ("GENER_SCORE", "A", "String", "Name of the score"),
    ("GENER_LLR", "A", "Float", "Log-likelihood ratio, reference minus alternate: positive if the model prefers REF"),
    ("GENER_SPREAD", "A", "Float", "Standard deviation of GENER_LLR over phases"),
    ("GENER_FLAG", "A", "String", "Reason why there is no score"),
)
_RECORDS, _SEQUENCES = 256, 4096  # records of a VCF, and of a FASTA, per write
_BATCHES = 16  # batches of a FASTA per write, at most; with many, each holds rows of similar length
_BUCKET = 1024  # bases: the resolution of `Marked`
_LARGEST_COMPARISON = 2 * 10**9  # training bases up to which --check_overlap auto compares


def number(value: float | None) -> str:
    """A number as text with six significant digits; empty for None and NaN."""
    return "" if value is None or np.isnan(value) else f"{value:.6g}"


class Output:
    """Writes rows in order, to a resumable file or to standard output."""

    def __init__(self, path: Path | None, fingerprint: dict, header: str):
        piped = {"path": "-"} in fingerprint.values()  # another run gets other data from standard input
        self._file = None if path is None else ResumableFile(path, fingerprint, resume=not piped)
        self.done = 0 if path is None else self._file.done
        self.counts = collections.Counter({} if path is None else self._file.facts.get("counts", {}))
        if not self.done:
            self.write([header], 0)

    def write(self, rows: list[str], records: int) -> None:
        """Writes the rows of `records` further records, which `counts` already includes."""
        self.done += records
        if self._file is None:
            print("".join(rows), end="", flush=True)
        else:
            self._file.append("".join(rows).encode(), self.done, counts=dict(self.counts))

    def finish(self, described: dict) -> None:
        """Completes the file, and writes how it was made to a JSON file next to it."""
        if self._file is not None:
            self._file.finish(described)


class Marked:
    """The bases that the windows of scored variants cover, in buckets of 1024 bases."""

    def __init__(self, genome: Genome, context: int):
        self.genome, self.context = genome, context
        self._marks = {}

    def add(self, contig: str, start: int) -> None:
        """Marks the window of a variant."""
        name = self.genome.contig(contig)
        stretch = None if name is None else self.genome.stretch(name, start, start + 1)
        if stretch is None:
            return
        marks = self._marks.setdefault(
            (name, stretch.start), (stretch.codes, np.zeros(-(-len(stretch.codes) // _BUCKET), bool))
        )[1]
        at = start - stretch.start
        marks[max(at - self.context, 0) // _BUCKET : (at + self.context) // _BUCKET + 1] = True

    def codes(self) -> Iterator[np.ndarray]:
        """Yields each run of marked bases, codes uint8 [bases]."""
        for codes, marks in self._marks.values():
            for first, last in bases.runs(marks):
                yield codes[first * _BUCKET : last * _BUCKET]


def overlap(config: Config, folder: Path, step: int | None, codes: list[np.ndarray], check: str) -> str:
    """One line on how many 32-mers of the scored bases occur in the model's training data, on either strand."""
    if check == "never":
        return "the scored bases were not compared with the training data"
    trained_on = None if step is None else run_folder.read_loader_state(folder, step)
    if trained_on is None:
        return f"warning: {folder} does not record its training data, which may contain the scored bases"
    try:
        if read_info(config.data.path)["digest"] != trained_on["dataset"]:
            raise MismatchError("is not the dataset that the model was trained on", file=config.data.path)
        source = RegionSource(config.data.path, "train")
    except DataError as error:
        return f"warning: the training data cannot be read and may contain the scored bases: {error}"
    total = int(source.index["length"].sum())
    if check == "auto" and total > _LARGEST_COMPARISON:
        return (
            f"warning: the {total:,} bases of training data were not compared with the scored bases and may contain "
            "them; to compare them, give --check_overlap always"
        )
    if source.storage == "token_ids":
        return "warning: the training data are stored as tokens, cannot be compared and may contain the scored bases"
    sample = leakage.sampling(sum(map(len, codes)))
    hashes, _ = leakage.hash_regions(codes, sample)
    index = kmers.Index(np.unique(hashes))
    batches = (
        (dna, np.zeros(1, np.int64), np.array([len(dna)]))
        for dna in (source.read(r, 0, int(source.index["length"][r])) for r in range(len(source)))
    )
    occurs = leakage.occurring(index, batches, sample)
    if found := int(occurs.sum()):
        longest = f"; the longest shared run has {_longest(codes, index.hashes[occurs])} bases" if sample == 1 else ""
        return (
            f"warning: {found:,} of the {len(occurs):,} distinct 32-mers of the scored bases occur in the model's "
            f"training data, {config.data.path}, on either strand{longest}"
        )
    return f"no 32-mer of the scored bases occurs in the model's training data ({total:,} bases)"


def _longest(codes: list[np.ndarray], seen: np.ndarray) -> int:
    """The length of the longest run whose 32-mers are all among the sorted hashes; repeats are short, copies long."""
    longest = 0
    for dna in codes:
        for first, last in bases.runs(dna < bases.N):
            hashes = kmers.mix(kmers.canonical(dna[first:last]))
            at = np.minimum(np.searchsorted(seen, hashes), len(seen) - 1)
            shared = bases.runs(seen[at] == hashes)
            longest = max(longest, int((shared[:, 1] - shared[:, 0]).max(initial=1 - kmers.LENGTH)) + kmers.LENGTH - 1)
    return longest


def _records(path: Path) -> Iterator[vcf.Record]:
    return (r for r in vcf.read(path) if not isinstance(r, str))


def _variant_header(path: Path, as_vcf: bool) -> str:
    if not as_vcf:
        return "\t".join(VARIANT_COLUMNS) + "\n"
    lines = list(itertools.takewhile(lambda line: isinstance(line, str), vcf.read(path)))
    lines = [line for line in lines if not line.startswith("##INFO=<ID=GENER_")]  # from an earlier run
    columns = lines[-1].split("\t")
    lines[-1] = "\t".join(columns + ["QUAL", "FILTER", "INFO"][len(columns) - 5 :] if len(columns) < 8 else columns)
    declared = [f'##INFO=<ID={n},Number={c},Type={t},Description="{d}">' for n, c, t, d in _INFO]
    return "\n".join([*lines[:-1], *declared, lines[-1]]) + "\n"


def _annotated(record: vcf.Record, scores: list[Scored]) -> str:
    fields = record.text.split("\t")
    fields += ["."] * (8 - len(fields))
    flags = [s.flag.translate(str.maketrans(" ;=,\t", "_:::_")) or "." for s in scores]
    values = {
        "GENER_SCORE": [s.score or "." for s in scores],
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
            record.contig, record.start + 1, record.id, record.ref, alt, s.score, number(s.llr), number(s.spread),
            number(s.log_p_ref), number(s.log_p_alt), s.flag,
        )  # fmt: skip
        rows.append("\t".join(map(str, row)) + "\n")
    return rows


def score_vcf(lm: LM, args, fingerprint: dict, config: Config, folder: Path) -> dict:
    """Scores the variants of the VCF; returns the object that the command prints last."""
    options = {
        "protocol": args.protocol, "context": args.context, "phases": args.phases, "strand": args.strand,
        "marginals": args.score == "base", "batch_tokens": args.batch_tokens,
    }  # fmt: skip
    with errors.user_errors():
        list(lm.score_variants([], {}, **options))  # raises for invalid options before anything is read or written
    genome = Genome.read(args.fasta, args.aliases)
    as_vcf = args.output is not None and args.output.suffix == ".vcf"
    marked, total, alleles = Marked(genome, args.context), 0, 0
    for record in _records(args.vcf):  # the whole file, so that an invalid line is found before the model runs
        marked.add(record.contig, record.start)
        total += 1
        alleles += len(record.alts)
    line = overlap(config, folder, lm.step, list(marked.codes()), args.check_overlap)
    log(line)
    out = Output(args.output, fingerprint, _variant_header(args.vcf, as_vcf))
    if out.done:
        log(f"resuming after record {out.done:,}")
    rate, counts = Rate("variant", alleles, out.counts.total()), out.counts
    # Blocks have a fixed number of records, so that after a stop the batches, and with them the last digits, are the
    # same.
    records = itertools.islice(_records(args.vcf), out.done, None)
    while block := list(itertools.islice(records, _RECORDS)):
        variants = [Variant(r.contig, r.start, r.ref, alt) for r in block for alt in r.alts]
        with errors.user_errors():
            scores = iter(lm.score_variants(variants, genome, **options))
        rows = []
        for record in block:
            own = list(itertools.islice(scores, len(record.alts)))
            for s in own:
                counts["flagged" if s.flag else "scored"] += 1
            rate.update(len(own), args.context * args.phases * len(own))
            rows += [_annotated(record, own)] if as_vcf else _rows(record, own)
        out.write(rows, len(block))
    rate.close()
    facts = {"records": total, **counts, "overlap": line}
    out.finish({**fingerprint, **facts, "environment": run_folder.environment()})
    return facts


def score_fasta(lm: LM, args, special: np.ndarray, fingerprint: dict) -> dict:
    """Scores the sequences of the FASTA after these special tokens; returns the object that the command prints last."""
    out = Output(args.output, fingerprint, "\t".join(SEQUENCE_COLUMNS) + "\n")
    if out.done:
        log(f"resuming after sequence {out.done:,}")
    rate, counts = Rate("sequence", None, 0), out.counts
    longest, k = lm.spec.model.max_length, lm.tokenizer.k

    def write(group: list[fasta.Sequence]) -> None:
        flags = []
        for sequence in group:
            tokens = len(special) + -(-len(sequence.codes) // k)
            flag = "empty" if not len(sequence.codes) else ""
            if longest is not None and tokens > longest:
                flag = f"needs {tokens} tokens of context, but the model was made for {longest}"
            flags.append(flag)
        good = [Prompt(special, s.codes) for s, flag in zip(group, flags, strict=True) if not flag]
        with errors.user_errors():
            scores = iter(lm.log_likelihood(good, score=args.score, strand=args.strand, batch_tokens=args.batch_tokens))
        rows = []
        for sequence, flag in zip(group, flags, strict=True):
            row = (sequence.name, len(sequence.codes), args.score, args.strand)
            if flag:
                row += ("", "", "", "", "", flag)
            else:
                s = next(scores)
                flag = "" if s.bases else "no known base"
                row += (number(s.value), s.bases, s.unknown, s.tokens, s.oov, flag)
            counts["flagged" if flag else "scored"] += 1
            rows.append("\t".join(map(str, row)) + "\n")
        out.write(rows, len(group))
        rate.update(len(group), sum(len(s.codes) for s in group))

    group = []
    for sequence in itertools.islice(fasta.read(args.fasta), out.done, None):
        group.append(sequence)
        if len(group) >= _SEQUENCES or sum(len(s.codes) for s in group) >= _BATCHES * args.batch_tokens * k:
            write(group)
            group = []
    if group:
        write(group)
    rate.close()
    out.finish({**fingerprint, **counts, "environment": run_folder.environment()})
    return dict(counts)


def main(argv=None) -> None:
    """Runs the command."""
    program = command.Command(__doc__, checkpoint=True)
    add = program.parser.add_argument
    add("--fasta", type=Path, metavar="FILE", required=True, help="plain, gzip or bgzip; - is standard input")
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
        type=int,
        default=CONTEXT,
        help=f"bases before the variant (next_kmer) or around it (window) [{CONTEXT}]",
    )
    add(
        "--phases",
        type=int,
        default=1,
        help="1; or k (6 for 6-mers): the mean over all positions of the variant in its k-mer, with the spread [1]",
    )
    add(
        "--aliases",
        type=Path,
        metavar="FILE",
        help="the names of one contig per line, separated by tabs, or an NCBI assembly report",
    )
    add("--check_overlap", choices=("auto", "always", "never"), default="auto",
        help="compare the windows of variants with the model's training data [auto: if it has up to 2 Gb]")  # fmt: skip
    add("--prefix", default="", metavar="TOKENS", help="special tokens before each sequence, e.g. <mam><cds>")
    add(
        "--batch_tokens",
        type=int,
        help=f"tokens per batch, including padding [{TOKENS}; on an accelerator {TOKENS_ACCELERATED}]",
    )
    add("--step", type=command.step, help="a checkpoint's step, or best [the newest]")
    args, config, folder = program.parse(argv)
    if args.vcf and args.prefix:
        raise ConfigError("applies to sequences, not to --vcf", "--prefix", args.prefix)
    if str(args.vcf) == "-":
        raise ConfigError("cannot be standard input, as it is read more than once; give a file", "--vcf", "-")
    if args.output is not None:
        if args.output.suffix in (".gz", ".bgz", ".bcf"):
            raise ConfigError(
                "output is not compressed; give a name that ends in .tsv or .vcf", "--output", str(args.output)
            )
        if args.output.suffix == ".vcf" and not args.vcf:
            raise ConfigError(
                "sequences are written as a table; give a name that ends in .tsv", "--output", str(args.output)
            )
    special = parse_prefix(args.prefix)
    if args.batch_tokens is not None and args.batch_tokens < 1:
        raise ConfigError("must be positive", "--batch_tokens", args.batch_tokens)
    files = {name: of_file(getattr(args, name)) for name in ("fasta", "vcf", "aliases")}
    args.batch_tokens = tokens_per_batch(args.batch_tokens)
    keep_programs(config, folder)
    lm = from_spec(config.spec, folder, step=args.step)
    if lm.tokenizer.kind != "kmer":
        raise ConfigError("scoring needs a k-mer tokenizer", "tokenizer.kind", lm.tokenizer.kind)
    options = ("score", "strand") + (("protocol", "context", "phases") if args.vcf else ("prefix",))
    fingerprint = {
        "checkpoint": str(folder), "step": lm.step, **{name: getattr(args, name) for name in options}, **files,
        "spec": json.loads(dumps(config.spec)),
    }  # fmt: skip
    began = time.perf_counter()
    facts = (
        score_vcf(lm, args, fingerprint, config, folder) if args.vcf else score_fasta(lm, args, special, fingerprint)
    )
    if args.output is not None:
        print(json.dumps({"output": str(args.output), **facts, "seconds": round(time.perf_counter() - began, 1)}))


if __name__ == "__main__":
    command.run(main)
