"""The exon table of Evo 2 (notebooks/exon_classifier of ArcInstitute/evo2) as FASTA and BED: a label for one base of
each row.

`forward_seq` ends with the labelled base, and `reverse_seq`, read on the other strand, ends with it too. So the record
of a row is the first, and the reverse complement of the second without its last base: the labelled base has as many
bases on both sides. Its class is `exon` or `other`; the other bases have no label. Each row is of another gene, so
records held out whole are genes held out whole.
"""

from pathlib import Path

from data_pipeline.errors import MismatchError
from data_pipeline.files import write_text
from data_pipeline.sequence import bases
from gener_jax.labelled import table


def convert(path: str | Path, folder: Path) -> tuple[Path, Path]:
    """Writes exons.fa and exons.bed for the rows of the table into a folder; returns their paths.

    A record is named ORGANISM:GENE, with its number after it where several rows have the same.

    Raises:
      DataError: if the table cannot be read, lacks a column, or its two sequences do not end with the same base.
    """
    rows, fasta, bed, names = table.read(path), [], [], {}
    columns = [rows.values(name, "column") for name in ("organism", "gene_name", "label", "forward_seq", "reverse_seq")]
    for i, (organism, gene, label, *both) in enumerate(zip(*columns, strict=True)):
        forward, reverse = map(bases.encode, both)
        other = bases.reverse_complement(reverse)
        if not len(forward) or not len(reverse) or forward[-1] != other[0]:
            raise MismatchError("does not end with the base of forward_seq", field="reverse_seq", **rows.place(i))
        name = f"{organism}:{gene}"
        names[name] = names.get(name, 0) + 1
        name += f":{names[name]}" if names[name] > 1 else ""
        length, at = len(forward) + len(other) - 1, len(forward) - 1
        fasta.append(f">{name}\n{bases.decode(forward)}{bases.decode(other[1:])}\n")
        bed.append(f"{name}\t0\t{length}\t.\n{name}\t{at}\t{at + 1}\t{'exon' if float(label) else 'other'}\n")
    folder.mkdir(parents=True, exist_ok=True)
    for file, lines in (("exons.fa", fasta), ("exons.bed", bed)):
        write_text(folder / file, "".join(lines))
    return folder / "exons.fa", folder / "exons.bed"
