"""The model that ships: its size, its likelihoods, that every command loads it, and its card."""

import gzip
import importlib
import re

import jax
import numpy as np
import pytest
from Bio import SeqIO
from safetensors.numpy import load_file

import gener_jax
from data_pipeline.errors import FileError
from data_pipeline.sequence.tokenizer import NUM_SPECIAL, SPECIAL_TOKENS
from gener_jax import embed, sample, score
from gener_jax.assets import EXAMPLE_GENOME, TINY
from gener_jax.storage import pretrained
from gener_jax.train import main as train
from tests import documents
from tests.data import FIXTURES
from tests.raised import raises

pytestmark = pytest.mark.usefixtures("one_device")

CARD = (TINY / "README.md").read_text()


@pytest.fixture(scope="module")
def lm():
    return gener_jax.load("tiny")


@pytest.fixture(scope="module")
def genes():
    """Coding regions of 0.9 to 3 kb, in frame, from a plasmid and a phage that the model was not trained on."""
    found = []
    for name in ("ypestis_plasmid_pPCP1_NC_005816.1.gb.gz", "phage_NC_000902.gbk.gz"):
        with gzip.open(FIXTURES / name, "rt") as file:
            (record,) = SeqIO.parse(file, "genbank")
        found += [str(f.extract(record.seq)) for f in record.features if f.type == "CDS" and 900 < len(f) < 3000]
    return found


def bits_per_base(lm, sequences):
    scores = lm.log_likelihood(sequences)
    return -sum(s.value for s in scores) / sum(s.bases for s in scores) / np.log(2)


def test_is_small(lm):
    assert sum(file.stat().st_size for file in TINY.iterdir()) <= 6_000_000
    assert 1e6 <= sum(x.size for x in jax.tree.leaves(lm.params)) <= 2e6
    assert {str(x.dtype) for x in load_file(TINY / "model.safetensors").values()} == {"float16"}
    assert lm.spec.prompt_convention == "v2"


@pytest.mark.usefixtures("compiled_in_full")
def test_held_out_genes_are_likelier_than_shuffled_ones(lm, genes):
    generator = np.random.default_rng(0)
    shuffled = ["".join(generator.permutation(list(gene))) for gene in genes]
    assert len(genes) >= 10
    assert bits_per_base(lm, genes) < min(1.96, bits_per_base(lm, shuffled) - 0.03)


def test_generates_and_embeds(lm):
    (text,) = lm.generate(["ATGAAAGC"], num_bases=60, seed=1)
    assert re.fullmatch("[ACGT]{60}", text)
    assert np.isfinite(lm.embed(["ATGAAAGC", "GATTACA"])).all()


def test_commands_load_it(tmp_path, capsys):
    fasta = tmp_path / "a.fa"
    fasta.write_text(">a\nATGAAAGCGATTACA\n>b\nGATTACA\n")
    score.main(["--checkpoint", "tiny", "--fasta", str(fasta), "--output", str(tmp_path / "a.tsv")])
    embed.main(["--checkpoint", "tiny", "--fasta", str(fasta), "--output", str(tmp_path / "a.npz")])
    capsys.readouterr()
    sample.main(["--checkpoint", "tiny", "--prompt", "ATG", "--num_bases", "30", "--require_stop_codon",
                 "--forbidden_motifs", "GGTACC", "GAATTC", "--forbidden_motifs", "CAA"])  # fmt: skip
    out, err = capsys.readouterr()
    assert re.search(r"end=stop_codon .*\nATG[ACGT]*(TAA|TAG|TGA)\n$", out)
    assert not re.search("GGTACC|GAATTC|CAA|TTG", out)
    assert err.startswith("1 of 1 sample ")
    assert len((tmp_path / "a.tsv").read_text().splitlines()) == 3
    assert np.load(tmp_path / "a.npz")["embeddings"].shape == (2, 128)


def test_a_folder_of_that_name_takes_precedence(tmp_path, monkeypatch):
    assert pretrained.find("tiny") == TINY
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert str(pretrained.find("tiny")) == "tiny"


def test_card_names_every_record():
    records = importlib.import_module("experiments.tiny").RECORDS
    for record in (*records, EXAMPLE_GENOME.name.removesuffix(".gbff.gz")):
        accession = re.match(r"[A-Z]+_?[A-Z]*\d+\.\d+", record)[0]
        assert f"{accession} " in CARD, record
    assert "BRCA1" in CARD


def test_a_missing_record_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("GENER_JAX_GENOMES", str(tmp_path / "genomes"))
    experiment = importlib.import_module("experiments.tiny").__file__
    monkeypatch.chdir(tmp_path)
    with raises(FileError, file="NC_000913.3.gb"):
        train([f"--config={experiment}", "--config.train.batch_size=8"])  # one row per device


def test_special_tokens_that_it_has_not_seen_are_untrained(lm):
    """Weight decay alone moved their embeddings, from 0.23 at the start; training moved the others."""
    norms = np.linalg.norm(np.asarray(lm.params["embed_tokens"])[:NUM_SPECIAL], axis=1)
    seen = {SPECIAL_TOKENS[i] for i in np.flatnonzero(norms > 0.5)}
    assert lm.provenance.special_tokens == seen
    assert norms[norms <= 0.5].max() < 0.2


def test_it_says_which_tokens_it_has_not_seen():
    line = ["sample", "--checkpoint", "tiny", "--prompt", "<mam><cds>ATG", "--num_bases", "6"]
    out, err = documents.call(line, None, piped=False)
    assert out.startswith(b">sample_1 ")
    assert [line for line in err.splitlines() if "was trained" in line] == [
        f"warning: tiny was trained on data without {token}, so it means nothing here" for token in ("<cds>", "<mam>")
    ]
