"""Folders of LoRA adapters in PEFT's layout: written, read back, and compared with PEFT."""

import dataclasses
import importlib.util
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gener_jax
from gener_jax import convert
from gener_jax.config import Head
from gener_jax.runtime.errors import CheckpointError, ConfigError
from gener_jax.storage import run_folder
from gener_jax.storage.huggingface import adapters
from tests import finetuned
from tests.raised import raises
from tests.test_convert import last_line, make_lm, published, same

pytestmark = pytest.mark.usefixtures("one_device")

HEAD = Head("single_label", ("other", "promoter"))
ALL = ("q", "k", "v", "o", "gate", "up", "down")
IDS = np.random.default_rng(0).integers(32, 96, (2, 12)).astype(np.int32)
DNA = ["ACGTTGACCGTA", "TTGACCGTAC"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A LoRA run with adapters of every matrix, beside its base."""
    folder, lm = tmp_path_factory.mktemp("adapters"), make_lm()
    base = published(folder / "base", lm)
    return finetuned.write(folder / "run", lm, HEAD, base, adapters=finetuned.adapters(lm, ALL))


@pytest.fixture(scope="module")
def exported(run):
    """Its export for PEFT."""
    return export(run, run.parent / "peft", "peft")


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of that, to be changed."""
    return shutil.copytree(exported, tmp_path / "peft")


def export(run, output, form, *more):
    convert.main(["--checkpoint", str(run), "--output", str(output), "--format", form, *more])
    return output


def change(folder, **fields):
    path = folder / adapters.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_merged_and_alone_give_the_same_model(run, tmp_path, capsys):
    lm = gener_jax.load(run)
    for form, more in (("peft", []), ("hf", ["--merge"]), ("run", ["--merge"])):
        loaded = gener_jax.load(export(run, tmp_path / f"as_{form}", form, *more))
        assert last_line(capsys)["format"] == form
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), loaded.params, lm.params)
        assert loaded.head == HEAD
        assert same(loaded.head_params, lm.head_params)
        np.testing.assert_allclose(loaded.predict(DNA).probabilities, lm.predict(DNA).probabilities, atol=1e-5)
    again = gener_jax.load(export(tmp_path / "as_peft", tmp_path / "again", "run", "--merge"))
    assert same(again.params, gener_jax.load(tmp_path / "as_peft").params)
    assert (tmp_path / "as_peft/base.json").read_bytes() == (run / "base.json").read_bytes()
    assert not (tmp_path / "as_peft/model.safetensors").exists()


def test_the_first_layers_alone_have_adapters(tmp_path):
    lm, fewer = make_lm(), make_lm(num_hidden_layers=1)
    base = published(tmp_path / "base", lm)
    fewer.params = {name: x for name, x in lm.params.items() if name != "layers_1"}
    head = dataclasses.replace(HEAD, layer=1)
    run = finetuned.write(tmp_path / "run", fewer, head, base, adapters=finetuned.adapters(fewer))
    export(run, tmp_path / "peft", "peft")
    assert json.loads((tmp_path / "peft" / adapters.CONFIG).read_text())["layers_to_transform"] == [0]
    found, expected = gener_jax.load(tmp_path / "peft"), gener_jax.load(run)
    assert found.spec.model.num_hidden_layers == 2
    np.testing.assert_allclose(found.predict(DNA).probabilities, expected.predict(DNA).probabilities, atol=1e-5)


@pytest.mark.parametrize(("form", "more"), [("hf", []), ("run", []), ("peft", ["--merge"])])
def test_adapters_are_merged_only_if_asked(form, more, run, tmp_path):
    with raises(ConfigError, field="--merge" if more else "--format"):
        export(run, tmp_path / "out", form, *more)
    with raises(ConfigError, field="--merge" if more else "--format"):
        export(run.parent / "base", tmp_path / "out", "peft", *more)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [("peft_type", "IA3"), ("use_dora", True), ("bias", "all"), ("modules_to_save", ["score"]), ("lora_alpha", "x"),
     ("base_model_name_or_path", None), ("init_lora_weights", "pissa")],
)  # fmt: skip
def test_other_adapters_are_refused(field, value, folder):
    change(folder, **{field: value})
    with raises(CheckpointError, path=folder / adapters.CONFIG, name=field, value=value):
        gener_jax.load(folder)


def test_damaged_tensors_are_refused(folder):
    path = folder / adapters.TENSORS
    tensors = load_file(path)
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"
    a, b = name.format("A"), name.format("B")
    for wrong, named in (
        ({a: tensors[a][:1]}, b), ({a: tensors[a][:, :3]}, a), ({a: tensors[a] * np.nan}, a), ({b: None}, b),
        ({a.replace("q_proj", "x_proj"): tensors[a]}, a.replace("q_proj", "x_proj")),
        ({a.replace(".1.", ".2."): tensors[a]}, a.replace(".1.", ".2.")),
    ):  # fmt: skip
        save_file({k: x for k, x in {**tensors, **wrong}.items() if x is not None}, path)
        with pytest.raises(CheckpointError) as caught:
            gener_jax.load(folder)
        assert caught.value.path == path
        assert caught.value.name in (named, a)
    path.write_bytes(b"x")
    with raises(CheckpointError, path=path):
        gener_jax.load(folder)


def test_another_base_is_refused(folder, tmp_path):
    other = make_lm()
    other.params["norm"]["scale"] = other.params["norm"]["scale"] * 2
    change(folder, base_model_name_or_path=str(published(tmp_path / "other", other)))
    with raises(CheckpointError, path=folder / run_folder.BASE, name="checksum"):
        gener_jax.load(folder)


# ------------------------------------------------------------------------------------------------------- with PEFT


def needs_peft():
    for package in ("torch", "transformers", "peft"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install -e '.[parity]'")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers and PEFT
def test_peft_computes_our_logits(run, exported):
    needs_peft()
    import peft
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(run.parent / "base", dtype=torch.float32)
    ids = torch.tensor(IDS.tolist())
    with torch.no_grad():
        before = model(ids).logits.numpy()
        adapted = peft.PeftModel.from_pretrained(model, exported).eval()
        found = adapted(ids).logits.numpy()
    lm = gener_jax.load(run)
    np.testing.assert_allclose(found, lm.logits(IDS), atol=1e-4)
    assert np.abs(found - before).max() > 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rslora", [False, True])
def test_adapters_made_by_peft_are_read(rslora, tmp_path):
    needs_peft()
    import peft
    import torch
    import transformers

    base = published(tmp_path / "base", make_lm())
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(
        r=3, lora_alpha=7, target_modules=["q_proj", "o_proj", "down_proj"], init_lora_weights=False, use_rslora=rslora
    )
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, config).eval()
    adapted.save_pretrained(tmp_path / "peft")
    with torch.no_grad():
        expected = adapted(torch.tensor(IDS.tolist())).logits.numpy()
    loaded = gener_jax.load(tmp_path / "peft")
    np.testing.assert_allclose(loaded.logits(IDS), expected, atol=1e-4)
    assert np.abs(gener_jax.load(base).logits(IDS) - expected).max() > 0.1
