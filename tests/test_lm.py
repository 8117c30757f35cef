"""The Python API as one object: names at the top level, what it prints, which sequences it accepts."""

import ast
import dataclasses
import doctest
import inspect
import subprocess
import sys

import jax
import numpy as np
import pytest
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

import gener_jax
from gener_jax.config import Head
from gener_jax.inference import lm as lm_module
from gener_jax.inference.constraints import GC
from gener_jax.runtime.errors import InputError
from tests import finetuned
from tests.raised import raises
from tests.test_convert import published
from tests.test_generate import make_lm

pytestmark = pytest.mark.usefixtures("one_device")

TEXTS = ["<cds>ACGTAC", "GATTACA", "ACG"]


@pytest.fixture(scope="module")
def lm():
    return make_lm(3)


def test_names_of_the_top_level():
    """Type checkers read the imports, programs the table beside them: both name the same objects."""
    assert {"load", "LM", "Constraints", "Variant", "Interval", "Genome", "Prompt", "Score"} <= set(gener_jax.__all__)
    tree = ast.parse(inspect.getsource(gener_jax))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name: node.module for node in block.body for alias in node.names}
    assert sorted(imported) == sorted(gener_jax.__all__)
    for name, module in imported.items():
        assert getattr(gener_jax, name) is getattr(sys.modules[module], name)
        assert name in dir(gener_jax)
    with pytest.raises(AttributeError, match="Nothing"):
        _ = gener_jax.Nothing
    program = "import sys, gener_jax; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finetuned.write(tmp_path / "runs/promoter", gener_jax.load("tiny"), Head("single_label", ("other", "promoter")))
    assert "step" in inspect.signature(gener_jax.load).parameters
    found = [test for test in doctest.DocTestFinder().find(lm_module) if test.examples]
    assert [test.name.rpartition(".")[2] for test in found] == [
        "dependency_map",
        "predict",
        "saturation",
        "score_region",
        "load",
    ]
    for test in found:
        assert doctest.DocTestRunner().run(test).failed == 0


def test_what_a_model_prints(lm):
    text = repr(lm)
    size = sum(x.size for x in jax.tree.leaves(lm.params))
    for part in (lm.spec.name, f"{size:,} parameters", "kmer-3", f"{lm.spec.model.max_length:,} tokens", "float32"):
        assert part in text
    assert "\n" not in text
    assert "step" not in text


@pytest.mark.parametrize(("convention", "special"), [("v1", 1), ("v2", 2)])
def test_the_longest_input_fits_and_a_longer_one_does_not(lm, convention, special):
    model = gener_jax.LM(dataclasses.replace(lm.spec, prompt_convention=convention), lm.params, lm.mesh)
    assert (model.k, model.num_layers, model.max_bases) == (3, 2, (64 - special) * 3)
    model.log_likelihood(["A" * model.max_bases])
    model.embed(["A" * model.max_bases], layer=model.num_layers)
    with pytest.raises(InputError):
        model.embed(["A" * (model.max_bases + 1)])
    window = dataclasses.replace(lm.spec.model, sliding_window=32)
    assert gener_jax.LM(dataclasses.replace(lm.spec, model=window), lm.params, lm.mesh).max_bases is None


def test_random_weights_have_the_shape_alone(lm):
    first, same, other = (lm_module.random_weights(lm.spec, lm.mesh, seed=seed) for seed in (0, 0, 1))
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), each.params) for each in (lm, first)]
    assert shapes[0] == shapes[1]
    scores = [each.log_likelihood(["ACGTTG" * 5])[0].value for each in (lm, first, same, other)]
    assert scores[1] == scores[2]
    assert len(set(scores)) == 3


def kinds(pandas):
    yield TEXTS
    yield tuple(TEXTS)
    yield (text for text in TEXTS)
    yield np.array(TEXTS)
    yield np.array(TEXTS, object)
    yield pandas.Series(TEXTS, index=[3, 1, 2])
    yield [gener_jax.Prompt.parse(text) for text in TEXTS]
    yield [Seq(text) for text in TEXTS]
    yield [SeqRecord(Seq(text), id="x") for text in TEXTS]


def test_sequences_are_accepted_alike(lm):
    pandas = pytest.importorskip("pandas")
    methods = {
        "embed": lambda x: lm.embed(x, pooling="mean"),
        "log_likelihood": lambda x: [s.value for s in lm.log_likelihood(x)],
        "base_probabilities": lambda x: np.concatenate(lm.base_probabilities(x)),
        "generate": lambda x: lm.generate(x, 6, seed=3),
        "stream": lambda x: ["".join(lm.stream(text, 6, seed=3)) for text in x],
    }
    for name, method in methods.items():
        expected = method(TEXTS)
        for values in kinds(pandas):
            assert np.array_equal(method(values), expected), (name, type(values))
    one = SeqRecord(Seq("ACG"))
    wrong = ("ACG", Seq("ACG"), one, {"a": "ACG"}, 5, np.array("ACG"), pandas.DataFrame({"A": ["ACG"]}))
    for value in wrong:
        for name in ("embed", "log_likelihood", "base_probabilities"):
            with raises(InputError, argument="sequences"):
                getattr(lm, name)(value)
        with raises(InputError, argument="prompts"):
            lm.generate(value, 6)
    for value in (None, float("nan"), Seq(None, 5), ["ACG"]):
        with raises(InputError, argument="sequences[1]"):
            lm.embed(["ACG", value])
        with raises(InputError, argument="prompt"):
            next(lm.stream(value, 6))


def test_constraints_are_constraints(lm):
    options = gener_jax.Constraints(gc=(0.2, 0.8))
    expected = lm.generate(["ACG"], 12, constraints=options)
    assert lm.generate(["ACG"], 12, constraints=GC((0.2, 0.8))) == expected  # a single one
    assert lm.generate(["ACG"], 12, constraints=(x for x in options)) == expected
    for value in ({"gc": (0.2, 0.8)}, [{"gc": 1}], "gc", 3):
        with raises(InputError, argument="constraints", value=value):
            lm.generate(["ACG"], 12, constraints=value)


def test_results_are_rows_of_a_table(lm):
    pandas = pytest.importorskip("pandas")
    scores = pandas.DataFrame(lm.log_likelihood(TEXTS, per_base=True))
    assert scores.columns[:3].tolist() == ["score", "strand", "value"]
    assert scores["per_base"].map(len).tolist() == [6, 7, 3]
    text = "ACGTTGCAACGATCGA" * 4
    variants = [("1", 30, text[30], "T"), ("1", 31, text[31], "C"), ("2", 1, "A", "C")]
    scored = pandas.DataFrame(lm.score_variants(variants, {"1": text}, context=24))
    assert scored.columns.tolist() == ["protocol", "llr", "spread", "log_p_ref", "log_p_alt", "flag"]
    assert scored["llr"].isna().tolist() == [False, False, True]
    continuations = pandas.DataFrame(lm.generate(TEXTS, 6, details=True))
    assert continuations["text"].map(len).tolist() == [6, 6, 6]


def results(lm):
    """What each method finds for two sequences; numbers as arrays."""
    sequences, genome = ["ATGAAAGCGATTACAGATTACANNA", "<vir><cds>GATTACATTTAAA"], {"chr": "ACGTTGCA" * 20}
    constraints = gener_jax.Constraints(max_homopolymer=4, gc=(0.3, 0.7))
    variants = list(lm.score_variants([("chr", 100, "T", "G"), ("chr", 90, "G", "GA")], genome, context=96))
    yield lm.logits(np.arange(40, 60)[None])
    yield lm.embed(sequences)
    yield from (x.value for x in lm.log_likelihood(sequences, strand="both", score="base"))
    yield from lm.base_probabilities(sequences)
    yield from (x.llr for x in variants)
    for options in ({"temperature": 0}, {"top_k": 40, "top_p": 0.9, "constraints": constraints}, {"mode": "base"}):
        for continuation in lm.generate(sequences, 30, log_probs=True, **options):
            yield np.frombuffer(continuation.text.encode(), np.uint8)
            yield continuation.log_probs


def test_64_bit_types_change_nothing(tmp_path, request):
    """No number to the bit, nor its type, whether they are enabled before the model is loaded or after."""
    folder = published(tmp_path / "model", make_lm(3), "float16")
    lm = gener_jax.load(folder)
    expected = list(map(np.asarray, results(lm)))
    request.getfixturevalue("x64")
    for each in (lm, gener_jax.load(folder)):
        for found, wanted in zip(map(np.asarray, results(each)), expected, strict=True):
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
