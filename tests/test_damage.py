"""Builds from damaged copies of real files: each gives the same regions, or a counted loss, or a one-line error.

GENER_JAX_DAMAGED is the number of copies (3000 for a soak test); prints a table by kind of damage (-s).
"""

import collections
import contextlib
import functools
import gzip
import hashlib
import io
import os
import random
import re
import resource
import shutil
import signal
import struct
import warnings
import zlib
from pathlib import Path

import pytest

from data_pipeline import inspect
from data_pipeline.dataset import builder
from data_pipeline.dataset.merge import NoRegion
from data_pipeline.dataset.reader import RegionSource
from data_pipeline.errors import DamagedFileError, DataError, FileError, FormatError, MismatchError
from data_pipeline.sequence import bases
from tests import oracle
from tests.data import DATA, FIXTURES, PEERS
from tests.test_gff import oracle_records

COPIES = int(os.environ.get("GENER_JAX_DAMAGED", "150"))
SECONDS, MEMORY = 20, 2 << 30  # limits per copy; one normally needs a twentieth of a second and some MB
BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
KINDS = ("gene", "CDS", "tRNA", "rRNA", "ncRNA", "tmRNA", "misc_RNA")
IUPAC = set("ACGTUNRYSWKMBDHV")


# The files before they are damaged, some of them shortened so that a build is fast.


def unpacked(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def first_records(text: bytes, count: int) -> bytes:
    ends = [match.end() for match in re.finditer(rb"^//\n", text, re.MULTILINE)]
    return text[: ends[min(count, len(ends)) - 1]]


def excerpt(annotation: bytes, sequence: bytes, name: bytes, length: int) -> tuple[bytes, bytes]:
    """The first `length` bases of one sequence of a FASTA, and the rows of the annotation in that range."""
    letters = re.search(rb"^>" + re.escape(name) + rb"\b[^\n]*\n([^>]*)", sequence, re.M)[1].replace(b"\n", b"")[
        :length
    ]
    rows = [
        line
        for line in annotation.splitlines(keepends=True)
        if line.startswith(name + b"\t") and int(line.split(b"\t")[4]) <= len(letters)
    ]
    lines = b"".join(letters[at : at + 60] + b"\n" for at in range(0, len(letters), 60))
    return b"".join(rows), b">" + name + b" first bases\n" + lines


@functools.cache
def originals() -> dict[str, dict[str, bytes]]:
    """Maps the name of each case to its file names and their uncompressed contents."""
    cases = {path.name.split(".")[0]: {"a.gbff": unpacked(path)} for path in sorted(FIXTURES.glob("*.gb*.gz"))}
    genomes = DATA / "genomes"
    if not genomes.exists():
        return cases
    for name, count in (
        ("edge_cases/cor6_6.gb.gz", 6),
        ("edge_cases/ls_orchid_94records.gbk.gz", 8),
        ("eukaryote/human_NM_000088.3.gb.gz", 1),
        ("eukaryote/human_NC_000006.12_CDKN1A_region.gb.gz", 1),
        ("eukaryote/human_NC_000017.11_BRCA1_region.gb.gz", 1),
        ("eukaryote/human_gbpri1_18records.seq.gz", 2),
        ("eukaryote/invertebrate_gbinv1_2records.seq.gz", 2),
        ("eukaryote/rodent_gbrod1_3records.seq.gz", 3),
        ("eukaryote/xenopus_gbvrt_2records.seq.gz", 2),
        ("prokaryote/gbbct1_9records.seq.gz", 9),
        ("virus/phage_NC_013600.gbk.gz", 1),
    ):
        cases[Path(name).name.split(".")[0]] = {"a.gbff": first_records(unpacked(genomes / name), count)}
    cases["malvi_last_contigs"] = {
        "a.gbff": re.search(
            rb"^LOCUS(?:(?!^//\n).)*^//\n\Z",
            unpacked(genomes / "prokaryote/malvi_ATCC29626_draft.gbff.gz"),
            re.M | re.S,
        )[0]
    }
    for case, annotation, sequence, name, length in (
        ("yeast_MT", "yeast_S288C_R64_chrI-XII_MT.gff", "yeast_S288C_R64_chrI-XII_MT.fna", b"NC_001224.1", 1 << 20),
        ("yeast_I", "yeast_S288C_R64_chrI-XII_MT.gff", "yeast_S288C_R64_chrI-XII_MT.fna", b"NC_001133.9", 40_000),
        ("fly", "dmelanogaster_1pct.gff3", "dmelanogaster_1pct.fa", b"2L", 40_000),
        ("worm", "celegans_1pct.gff3", "celegans_1pct.fa", b"I", 25_000),
        ("chicken", "chicken_Galgal4_chr1_piece.gtf", "chicken_Galgal4_chr1_piece.fa", b"1", 60_000),
    ):
        rows, sequences = excerpt(
            *(unpacked(genomes / "eukaryote" / f"{x}.gz") for x in (annotation, sequence)), name, length
        )
        cases[case] = {f"a.{annotation.rsplit('.', 1)[1]}": rows, "a.fa": sequences}
    return cases


# Damage to the text and to the compressed file.


def lines_of(text: bytes) -> list[bytes]:
    return text.splitlines(keepends=True)


def flip(text: bytes, generator: random.Random) -> bytes:
    damaged = bytearray(text)
    for _ in range(generator.choice((1, 1, 2, 5, 20))):
        damaged[generator.randrange(len(text))] ^= 1 << generator.randrange(8)
    return bytes(damaged)


def cut_lines(text: bytes, generator: random.Random) -> bytes:
    lines = lines_of(text)
    at = generator.randrange(len(lines))
    del lines[at : at + generator.choice((1, 1, 1, 3, 30))]
    return b"".join(lines)


def double_lines(text: bytes, generator: random.Random) -> bytes:
    lines = lines_of(text)
    at = generator.randrange(len(lines))
    lines[at:at] = lines[at : at + generator.choice((1, 1, 3, 30))]
    return b"".join(lines)


def swap_lines(text: bytes, generator: random.Random) -> bytes:
    lines = lines_of(text)
    one, other = generator.randrange(len(lines)), generator.randrange(len(lines))
    if generator.random() < 0.5:
        other = min(one + 1, len(lines) - 1)
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def remove_block(text: bytes, generator: random.Random) -> bytes:
    at = generator.randrange(len(text))
    return text[:at] + text[at + generator.choice((1, 10, 512, 4096)) :]


def truncate(text: bytes, generator: random.Random) -> bytes:
    return text[: generator.randrange(len(text))]


def returns(text: bytes, generator: random.Random) -> bytes:
    if generator.random() < 0.5:
        return text.replace(b"\n", b"\r\n")
    return b"".join(line.replace(b"\n", b"\r\n") if generator.random() < 0.3 else line for line in lines_of(text))


def nuls(text: bytes, generator: random.Random) -> bytes:
    at, size = generator.randrange(len(text)), generator.choice((1, 16, 512, 1 << 20))
    return text[:at] + b"\0" * len(text[at : at + size]) + text[at + size :]


NUMBER = re.compile(rb"(?<=[\d.(, ])\d+(?=\.\.)|(?<=\.\.)\d+|(?<=\t)\d+(?=\t)|(?<= )\d+(?= bp)|(?<=\(bases )\d+")


def huge_number(text: bytes, generator: random.Random) -> bytes:
    match = generator.choice(list(NUMBER.finditer(text))[:400] or [re.match(b"", text)])
    number = generator.choice((10**6, 2**31, 2**32, 10**12, 2**63 - 1, 2**63, 2**64, 10**30, -1, 0, "9" * 5000))
    return text[: match.start()] + str(number).encode() + text[match.end() :]


def letters(text: bytes, generator: random.Random) -> bytes:
    """Replaces one letter or digit with another character."""
    at = generator.choice([generator.randrange(len(text)) for _ in range(3)])
    return text[:at] + generator.choice((b"E", b"*", b"-", b"\xff", b"\t", b"\n", b"9", b"")) + text[at + 1 :]


TEXT = (
    flip, cut_lines, double_lines, swap_lines, remove_block, truncate, returns, nuls, huge_number, letters,
)  # fmt: skip


def bgzip(text: bytes) -> list[bytes]:
    """The blocks of a bgzip file, smaller than usual, so that a small file has several."""
    blocks = []
    for at in range(0, len(text), 8192):
        part = text[at : at + 8192]
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = packer.compress(part) + packer.flush()
        head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", len(body) + 25)
        blocks.append(head + body + struct.pack("<II", zlib.crc32(part), len(part)))
    return [*blocks, BGZIP_END]


def packed(text: bytes, generator: random.Random) -> bytes:
    return b"".join(bgzip(text)) if generator.random() < 0.5 else gzip.compress(text, 6, mtime=0)


def flip_packed(text: bytes, generator: random.Random) -> bytes:
    return flip(packed(text, generator), generator)


def truncate_packed(text: bytes, generator: random.Random) -> bytes:
    if generator.random() < 0.5:
        return truncate(packed(text, generator), generator)
    blocks = bgzip(text)
    return b"".join(blocks[: generator.randrange(1, len(blocks))])


def trailer(text: bytes, generator: random.Random) -> bytes:
    damaged = bytearray(gzip.compress(text, 6, mtime=0))
    damaged[-generator.randrange(1, 9)] ^= 1 << generator.randrange(8)
    return bytes(damaged)


def garbage_between(text: bytes, generator: random.Random) -> bytes:
    blocks = bgzip(text)
    if generator.random() < 0.5:
        at = generator.randrange(len(text))
        blocks = [gzip.compress(text[:at], mtime=0), gzip.compress(text[at:], mtime=0)]
    place = generator.randrange(1, len(blocks) + 1)
    junk = generator.choice((b"\0" * 100, generator.randbytes(100), b"\x1f\x8b", b"\n"))
    return b"".join([*blocks[:place], junk, *blocks[place:]])


def blocks_moved(text: bytes, generator: random.Random) -> bytes:
    blocks = bgzip(text)
    at = generator.randrange(len(blocks) - 1)
    what = generator.choice(("lost", "twice", "turned"))
    if what == "lost":
        del blocks[at]
    elif what == "twice":
        blocks.insert(at, blocks[at])
    else:
        blocks[at], blocks[-2] = blocks[-2], blocks[at]
    return b"".join(blocks)


def remove_packed(text: bytes, generator: random.Random) -> bytes:
    return remove_block(packed(text, generator), generator)


PACKED = (flip_packed, truncate_packed, trailer, garbage_between, blocks_moved, remove_packed)


# What is wrong with a damaged file, by slower code that is independent of the readers.


def unpacked_whole(content: bytes) -> bytes | None:
    """The text of a file; None if its gzip stream is damaged."""
    if content[:2] != b"\x1f\x8b":
        return content
    text = b""
    while content := content.lstrip(b"\0"):  # padding, as on tapes
        stream = zlib.decompressobj(31)
        try:
            text += stream.decompress(content)
        except zlib.error:
            return None
        if not stream.eof:
            return None
        content = stream.unused_data
    return text


LOCATION = re.compile(
    r"(?>(?:complement|join|order|bond|one-of)\(|[\w.]+:(?=[<\d])|[<>]?\d++|\(\d+\.\d+\)|\.\.|\^|[,)])++"
)


def genbank_faults(text: str) -> list[str]:
    """The faults of a GenBank file. Those that begin with `location` may be counted; the others must be rejected."""
    faults, inside, declared, letters, part, location = [], False, None, 0, "", None

    def end_location():
        nonlocal location
        if location is not None:
            own = re.sub(r"[\w.]+:[<>]?\d+(?:(?:\.\.|\^)[<>]?\d+)?", "", location)
            numbers = [int(number[-25:]) for number in re.findall(r"\d+", own)]
            if not LOCATION.fullmatch(location) or location.count("(") != location.count(")"):
                faults.append(f"location {location[:60]!r}: no location")
            elif declared is not None and any(not 1 <= number <= declared for number in numbers):
                faults.append(f"location {location[:60]!r}: outside 1..{declared}")
        location = None

    for line in text.replace("\r", "").split("\n"):
        if re.match(r"LOCUS[ \t]", line):
            end_location()
            if inside:
                faults.append("no // before a LOCUS line")
            found = re.search(r" (\d+) bp", line)
            inside, declared, letters, part = True, int(found[1][-25:]) if found else None, 0, ""
        elif line[:2] == "//" and not line[2:].strip():
            end_location()
            if letters and letters != declared:
                counted = "location: " if declared is not None and letters > declared else ""
                faults.append(f"{counted}{letters} letters, {declared} declared")
            inside = False
        elif line.startswith(("FEATURES", "ORIGIN", "CONTIG")):
            end_location()
            part = line[:6]
        elif part == "ORIGIN":
            found = re.sub(r"[\d\s]", "", line)
            letters += len(found)
            if set(found.upper()) - IUPAC:
                faults.append(f"letters {line[:80]!r}")
        elif part == "FEATUR":
            if re.match(r" {5}\S", line):
                end_location()
                key, _, rest = line.strip().partition(" ")
                location = rest.strip() if key in KINDS else None
            elif line.strip().startswith("/"):
                end_location()
            elif location is not None:
                location += line.strip()
    if inside:
        faults.append("no // at the end")
    return faults


def pair_faults(annotation: str, sequence: str) -> list[str]:
    """The faults of a pair of GFF3 or GTF and FASTA files; as above."""
    faults, lengths, name = [], {}, None
    for line in sequence.replace("\r\n", "\n").split("\n"):
        if line.startswith(">"):
            name = (line[1:].split() or [""])[0]
            if name in lengths:
                faults.append(f"{name} occurs twice")
            lengths[name] = 0
        elif line.strip():
            found = re.sub(r"[ \t]", "", line)
            if set(found.upper()) - IUPAC or name is None:
                faults.append(f"letters {line[:80]!r}")
            else:
                lengths[name] += len(found)
    circular = "Is_circular=true" in annotation
    for line in annotation.replace("\r\n", "\n").split("\n"):
        if line.startswith(">"):
            break
        columns = line.split("\t")
        if not line or line[0] == "#":
            continue
        if len(columns) != 9:
            faults.append(f"columns {line[:80]!r}")
        elif columns[2] in KINDS:
            if not all(re.fullmatch("[0-9]{1,15}", column) for column in columns[3:5]):
                faults.append(f"location {line[:80]!r}: no numbers")
                continue
            start, end = map(int, columns[3:5])
            if not 1 <= start <= end:
                faults.append(f"location {line[:80]!r}: no interval")
            elif columns[0] in lengths and end > lengths[columns[0]] and not circular:
                faults.append(f"place {line[:80]!r}")
    return faults


def faults_of(files: dict[str, bytes]) -> list[str]:
    texts = {name: unpacked_whole(content) for name, content in files.items()}
    if None in texts.values():
        return ["damaged gzip"]
    if any(b"\0" in text for text in texts.values()):
        return ["NUL"]
    read = [text.decode("latin-1") for text in texts.values()]
    return genbank_faults(*read) if len(read) == 1 else pair_faults(*read)


def oracle_rows(files: dict[str, bytes], folder: Path) -> list[tuple] | str:
    """The regions that Biopython finds in a GenBank text, or in a GFF3 with its FASTA, or its error."""
    from Bio import SeqIO
    from Bio.Seq import UndefinedSequenceError

    rows = []
    try:
        texts = [unpacked_whole(content) for content in files.values()]
        if len(texts) == 1:
            records = SeqIO.parse(io.StringIO(texts[0].decode("latin-1")), "genbank")
        else:
            paths = [folder / "oracle.gff.gz", folder / "oracle.fa.gz"]
            for path, text in zip(paths, texts, strict=True):
                path.write_bytes(gzip.compress(text.decode("utf-8", "replace").encode(), 1, mtime=0))
            records = oracle_records(*paths)
        for record in records:
            with contextlib.suppress(UndefinedSequenceError):
                rows += oracle.regions(record, collections.Counter())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return sorted((row[:3], row[3], row[4], row[6]) for row in rows)


def built_rows(folder: Path) -> list[tuple]:
    rows = []
    for split in ("train", "validation", "test"):
        with contextlib.suppress(DataError):
            source = RegionSource(folder, split)
            for number in inspect.chosen(source):
                row = {name: column[number].item() for name, column in source.index.items()}
                codes = bases.decode(source.read(number, 0, row["length"])).encode()
                rows.append(
                    (
                        (source.accessions[row["accession"]], row["start"], row["end"]),
                        "+" if row["strand"] > 0 else "-",
                        source.kinds[row["kind"]],
                        hashlib.md5(codes).hexdigest(),
                    )
                )
    return sorted(rows)


# One copy: write, build, judge.


class Hang(BaseException):
    pass


@contextlib.contextmanager
def bounds():
    """Limits the time and memory of one build."""

    def late(*_):
        raise Hang

    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit if before[1] < 0 else min(limit, before[1]), before[1]))
    handler = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def built(folder: Path, files: dict[str, bytes]) -> dict | DataError:
    """The dataset.json of a build from the files, or its error; asserts that no other files remain."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        with bounds():
            result = builder.build(
                [folder / name for name in files], folder / "set", workers=1, validation_fraction=0, taxon="bct"
            )
    except DataError as error:
        result = error
    left = sorted(path.name for path in folder.iterdir())
    assert left == sorted([*files, *(["set"] if isinstance(result, dict) else [])])
    return result


def losses(dataset: dict) -> dict[str, int]:
    account = dataset["ledger"]
    rows = {**account["records"]["skipped"], **account["regions"]["dropped"], **account["notes"]}
    return {name: row["count"] for name, row in rows.items()}


def judged(folder: Path, files: dict[str, bytes], before: dict) -> tuple[str, str]:
    """The outcome for a damaged copy (same, counted, rejected or other), and what is wrong with it, or nothing."""
    try:
        after = built(folder, files)
    except (Exception, Hang) as error:
        return "crashed", f"{type(error).__name__}: {error}"
    faults = faults_of(files)
    if isinstance(after, DataError):
        text = str(after)
        if not text.isprintable() or len(text) > 1000:
            return "rejected", f"not one short printable line: {text!r}"
        located = after.line or after.record or type(after) in (FileError, DamagedFileError, MismatchError, NoRegion)
        whole_file = type(after) is FormatError and after.field is None  # another format, or a file without records
        if not any(name in str(after.file) for name in files) or not (located or whole_file):
            return "rejected", f"names neither line nor record: {text}"
        return "rejected", ""
    fatal = [fault for fault in faults if not fault.startswith("location")]
    if fatal:
        return "accepted", f"must be rejected: {fatal[0]}"
    earlier, later = losses(before), losses(after)
    counted = any(later[name] > earlier.get(name, 0) for name in later)
    if faults and not counted and len(faults) > sum(earlier.values()):
        return "accepted", f"must be counted: {faults[0]}"
    if after["digest"] == before["digest"]:
        return "same", ""
    if counted:
        return "counted", ""
    if "a.gtf" not in files and (PEERS / "gene_regions.py").exists():
        expected, found = oracle_rows(files, folder), built_rows(folder / "set")
        if isinstance(expected, str):
            return "other, which Biopython refuses", f"Biopython: {expected}"
        if expected != found:
            extra = sorted(set(found) - set(expected))[:2], sorted(set(expected) - set(found))[:2]
            return "other", f"found and not expected, expected and not found: {extra}"
    return "other", ""


def table(counts: collections.Counter) -> str:
    outcomes = sorted({outcome for _, outcome in counts})
    kinds = sorted({kind for kind, _ in counts})
    rows = [["damage", *outcomes]] + [[kind, *(str(counts[kind, outcome]) for outcome in outcomes)] for kind in kinds]
    rows.append(["all", *(str(sum(counts[kind, outcome] for kind in kinds)) for outcome in outcomes)])
    return "\n".join("  ".join(f"{cell:>16}" for cell in row) for row in rows)


@pytest.mark.timeout(60 + COPIES)
def test_damaged_copies(tmp_path, capsys):
    warnings.simplefilter("ignore")
    cases, before = originals(), {}
    for name, files in cases.items():
        before[name] = built(tmp_path / "whole", files)
        assert isinstance(before[name], dict), before[name]
        assert not [fault for fault in faults_of(files) if not fault.startswith("location")], name
    counts, wrong = collections.Counter(), []
    for number in range(COPIES):
        generator = random.Random(number)
        name = generator.choice(list(cases))
        files = dict(cases[name])
        damage = generator.choice((*TEXT, *PACKED))
        file = generator.choice(list(files))
        files[file] = damage(files[file], generator)
        if damage in TEXT and generator.random() < 0.3:
            files[file] = packed(files[file], generator)
        outcome, fault = judged(tmp_path / "copy", files, before[name])
        counts[damage.__name__, outcome] += 1
        if fault:
            wrong.append(f"{number} {damage.__name__} of {name} {file}: {outcome}: {fault}")
            if kept := os.environ.get("GENER_JAX_DAMAGED_KEPT"):
                shutil.copytree(tmp_path / "copy", Path(kept) / str(number), dirs_exist_ok=True)
    with capsys.disabled() if COPIES > 150 else contextlib.nullcontext():
        print("", table(counts), sep="\n")
    assert not wrong, f"{len(wrong)} of {COPIES}\n" + "\n".join(wrong[:60])
