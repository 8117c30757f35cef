"""Annotated genomes: what the list gives, the features of records, windows that are where they say."""

import numpy as np
import pytest

from data_pipeline.dataset import inputs
from data_pipeline.regions.schemes import Scheme
from data_pipeline.sequence import bases
from gener_jax.assets import EXAMPLE_GENOME
from gener_jax.tasks import annotated_genomes, gene_labels
from gener_jax.tasks.annotated_genomes import annotations, between_genes, coding_windows, intergenic_windows, records
from gener_jax.tasks.base import NotRun, Options
from tests.data import data_path


@pytest.fixture(scope="module")
def source():
    return inputs.discover([EXAMPLE_GENOME], annotated=True)[0]


def test_files_of_the_list_and_what_labels_use_of_them(tmp_path):
    assert annotations("Caenorhabditis elegans") == ("genomes/eukaryote/celegans_1pct.gff3.gz",)
    assert annotations() == annotations("no such species") == ()
    listed = {file for source in annotated_genomes.SOURCES for file, _ in source.files}
    assert {file for file in gene_labels.GENOMES if file not in listed} == {gene_labels.GENOMES[-1]}
    with pytest.raises(NotRun, match="annotated_genomes"):
        annotated_genomes.files(Options(tmp_path))


def test_a_taxon_is_given_where_files_do_not_state_it():
    data = data_path()
    files = [*annotations("Drosophila melanogaster"), gene_labels.PROKARYOTES[0]]
    for file in files:
        data_path(*file.split("/"))
    assert [one.taxon for one in annotated_genomes.inputs_of(data, files)] == ["inv", None]


def test_windows_are_the_middle_of_what_they_name(source):
    [(record, _)] = records(source)
    texts = [bases.decode(codes) for codes in coding_windows(record, 300)]
    assert len(texts) > 500
    whole = bases.decode(record.codes)
    assert all(text in whole or bases.decode(bases.reverse_complement(bases.encode(text))) in whole for text in texts)
    between = [(start, end) for start, end in between_genes(record).tolist() if end - start >= 300]
    found = list(intergenic_windows(record, 300))
    assert len(found) == len(between)
    for (start, end), codes in zip(between, found, strict=True):
        at = (start + end - 300) // 2
        expected = record.codes[at : at + 300]
        assert np.array_equal(codes, expected) or np.array_equal(codes, bases.reverse_complement(expected))
    assert len(next(records(source, Scheme("cds")))[0].features) < len(record.features)
