"""Models held in bfloat16 and int8: on a CPU, which widens them, and on an accelerator, by what is lowered for it."""

import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import gener_jax
from gener_jax import evaluate, predict, sample, score
from gener_jax.config import Head, ModelSpec
from gener_jax.finetuning.adapting import FineTuning
from gener_jax.inference import weights
from gener_jax.inference.options import WEIGHTS
from gener_jax.model import kernels, memory
from gener_jax.model.quantization import Int8, quantize
from gener_jax.runtime.errors import ConfigError, InputError
from tests import finetuned, test_generation_on_accelerators
from tests.raised import raises
from tests.test_convert import last_line, make_lm, published

pytestmark = pytest.mark.usefixtures("one_device")

HEAD = Head("single_label", ("other", "promoter"))
DNA = ["ACGTTGACCGTA" * 4, "TTGACCGTAC" * 3]


def flat(params) -> dict:
    return traverse_util.flatten_dict(params, sep="/")


def inputs(path: str) -> int:
    return 2 if path.endswith("/o") else 1


def check(held: dict, exact: dict, kind: str) -> None:
    """Whether parameters are those of `exact`, held on a CPU."""
    assert held.keys() == exact.keys()
    for path, x in held.items():
        assert x.dtype == np.float32
        expected = exact[path]
        if kind != "float32" and not path.endswith("scale"):
            in_int8 = kind == "int8" and path.startswith("layers_")
            rounded = quantize(expected, inputs(path)) if in_int8 else expected.astype(jnp.bfloat16)
            expected = rounded.astype("float32")
            assert (x != exact[path]).any()
        np.testing.assert_array_equal(x, expected)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same model published, as a run's folder with a head, and the base of a LoRA run."""
    folder, lm = tmp_path_factory.mktemp("weights"), make_lm()
    base = published(folder / "base", lm)
    run = finetuned.write(folder / "run", lm, HEAD)
    lora = finetuned.write(folder / "lora", lm, HEAD, base, adapters=finetuned.adapters(lm))
    return {"base": base, "run": run, "lora": lora}


@pytest.mark.parametrize(
    ("name", "kind"), [*itertools.product(["base", "run", "lora"], WEIGHTS[1:]), ("run", "float32")]
)
def test_a_cpu_widens_what_it_rounds(name, kind, folders):
    exact, lm = gener_jax.load(folders[name]), gener_jax.load(folders[name], weights=kind)
    if name == "lora" and kind == "bfloat16":  # merged in float32, but into a rounded base
        for path, x in flat(lm.params).items():
            np.testing.assert_allclose(x, flat(exact.params)[path], rtol=2**-7, atol=2**-7)
            np.testing.assert_array_equal(x, x.astype(jnp.bfloat16) if "norm" not in path else x)
    else:
        check(flat(lm.params), flat(exact.params), kind)
    assert lm.spec == exact.spec
    assert lm.spec.model.dtype == "float32"
    assert repr(lm) == repr(exact).replace("float32,", "float32," + f" weights {kind}," * (kind != "float32"))
    if name != "base":
        jax.tree.map(np.testing.assert_array_equal, lm.head_params, exact.head_params)
        assert np.abs(lm.predict(DNA).probabilities - exact.predict(DNA).probabilities).max() < 0.05


def on_an_accelerator(monkeypatch, folder, **options):
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "platform", lambda: "gpu")
        return gener_jax.load(folder, **options)


def test_an_accelerator_holds_int8(folders, monkeypatch):
    """The same numbers as a CPU widens, computed in bfloat16."""
    lm = on_an_accelerator(monkeypatch, folders["lora"], weights="int8")
    assert lm.spec.model.dtype == "bfloat16"
    assert repr(lm) == repr(gener_jax.load(folders["lora"])).replace("float32,", "bfloat16, weights int8,")
    widened = gener_jax.load(folders["lora"], weights="int8")
    for path, x in flat(lm.params).items():
        assert isinstance(x, Int8) == (path.startswith("layers_") and not path.endswith("/scale"))
        np.testing.assert_array_equal(x.astype("float32"), flat(widened.params)[path])
        assert isinstance(x, Int8) or x.dtype == ("float32" if path.endswith("scale") else "bfloat16")
    np.testing.assert_allclose(lm.predict(DNA).probabilities, widened.predict(DNA).probabilities, atol=0.05)
    assert len(lm.generate(["ACGTAC"], 12)[0]) == 12
    need = memory.inference_needs(lm.spec.model, lm.mesh.shape, 1, 64, int8=True)["weights"] * 2**30
    held = sum(x.nbytes for path, x in flat(lm.params).items() if not isinstance(x, Int8))
    held += sum(x.values.nbytes for x in flat(lm.params).values() if isinstance(x, Int8))
    norms = sum(x.nbytes for path, x in flat(lm.params).items() if path.endswith("scale"))
    assert held - norms <= need * lm.mesh.shape["fsdp"] <= held
    low = on_an_accelerator(monkeypatch, folders["base"], weights="bfloat16")
    assert {str(x.dtype) for path, x in flat(low.params).items() if not path.endswith("scale")} == {"bfloat16"}


@pytest.mark.usefixtures("gpu")
def test_a_step_of_decoding_reads_int8_and_widens_no_copy(monkeypatch):
    """Lowered for CUDA. Each layer's matrix is converted inside the loop over tokens, only to be multiplied."""
    tests, lowered = test_generation_on_accelerators, test_generation_on_accelerators.lowered
    spec = weights.computed(ModelSpec(tokenizer=gener_jax.config.Tokenizer(k=2), model=tests.MODEL), "int8")
    assert spec.model == tests.MODEL
    keep, unstack = weights.keep(spec.model, "int8"), tests.unstack
    int8 = lambda params: traverse_util.unflatten_dict(  # noqa: E731
        {path: keep(path, x) for path, x in flat(unstack(params)).items()}, sep="/"
    )
    monkeypatch.setattr(tests, "unstack", int8)
    for text in lowered():
        main = text.partition("func.func private")[0]
        loop = main.partition("} do {")[2] or main  # the names of values are those of one region
        widened = re.findall(r"(%\w+) = stablehlo\.convert %\w+ : \(tensor<([\dx]+)xi8>\) -> tensor<\2xbf16>", loop)
        assert len(widened) == 7 * tests.MODEL.num_hidden_layers == len(re.findall(r"\(tensor<\S+xi8>\) ->", text))
        for name, _ in widened:
            (use,) = re.findall(rf"stablehlo\.(\w+) [^\n]*{name}[ ,]", loop)
            if use == "reshape":
                (name,) = re.findall(rf"(%\w+) = stablehlo\.reshape {name} ", loop)
                (use,) = re.findall(rf"stablehlo\.(\w+) [^\n]*{name}[ ,]", loop)
            assert use == "dot_general"


def test_tiny_scores_as_before():
    """Of 132 bases bfloat16 changed 0.0001 bits per base and int8 0.00005; the limit is twenty times the larger."""
    sequences = ["ATGAAAGCATTTGGCCCGATAACGTTAGCA" * 20, "TTGACATATAATGCGGCATTAGGC" * 20]

    def bits_per_base(kind):
        found = gener_jax.load("tiny", weights=kind).log_likelihood(sequences)
        return -sum(x.value for x in found) / sum(x.bases for x in found) / np.log(2)

    exact, low, int8 = map(bits_per_base, (None, "bfloat16", "int8"))
    assert 0 < abs(low - exact) < 0.002
    assert 0 < abs(int8 - exact) < 0.002


def test_what_cannot_be(folders, tmp_path, capsys):
    for given in ({"weights": "int4"}, {"weights": "int8", "dtype": "bfloat16"}):
        with raises(InputError, argument="weights", value=given["weights"]):
            gener_jax.load(folders["base"], **given)
    command = ["--checkpoint", str(folders["base"]), "--prompt", "ACG", "--num_bases", "6"]
    with raises(ConfigError, field="--weights", value="int8"):
        sample.main([*command, "--weights", "int8", "--config.model.dtype=bfloat16"])
    with pytest.raises(SystemExit):
        sample.main([*command, "--weights", "int4"])
    assert "int4" in capsys.readouterr().err
    adapt = ["--adapt", "lora", "--output", str(tmp_path / "measured"), "--weights", "int8"]
    with raises(ConfigError, field="--weights", value="int8"):
        evaluate.main(["--checkpoint", str(folders["base"]), *adapt])
    with raises(ConfigError, field="weights", value="int8"):
        FineTuning("lora")(gener_jax.load(folders["base"], weights="int8"), None, tmp_path)


def test_commands_take_them(folders, tmp_path, capsys):
    fasta = tmp_path / "a.fa"
    fasta.write_text("".join(f">{i}\n{text}\n" for i, text in enumerate(DNA)))
    value = {}
    for kind in (None, "int8"):
        more = [] if kind is None else ["--weights", kind]
        output = tmp_path / f"{kind}.tsv"
        score.main(["--checkpoint", str(folders["base"]), "--fasta", str(fasta), "--output", str(output), *more])
        assert json.loads((tmp_path / f"{kind}.tsv.json").read_text()).get("weights") == kind
        value[kind] = float(output.read_text().splitlines()[1].split("\t")[4])
    lm = gener_jax.load(folders["base"], weights="int8")
    assert value["int8"] == pytest.approx(lm.log_likelihood(DNA[:1])[0].value, rel=1e-4)
    assert value["int8"] != value[None]
    predict.main(["--checkpoint", str(folders["lora"]), "--input", str(fasta), "--output", str(tmp_path / "p.tsv"),
                  "--weights", "int8"])  # fmt: skip
    row = (tmp_path / "p.tsv").read_text().splitlines()[1].split("\t")
    expected = gener_jax.load(folders["lora"], weights="int8").predict(DNA[:1]).probabilities[0]
    np.testing.assert_allclose([float(x) for x in row[3:5]], expected, atol=1e-4)
    assert last_line(capsys)["rows"] == 2
