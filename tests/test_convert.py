"""Tests conversion in both directions, its output and its errors. Tests that need torch are in the slow tier."""

import dataclasses
import functools
import importlib.util
import json
import re
import runpy
import subprocess
import sys
import types
import warnings

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import gener_jax
from data_pipeline.dataset.reader import read_info
from data_pipeline.sequence.tokenizer import NUM_SPECIAL, PAD
from gener_jax import convert, evaluate, sample
from gener_jax.config import Head, Model, ModelSpec, Tokenizer, with_model
from gener_jax.inference.batches import right_pad
from gener_jax.inference.lm import LM
from gener_jax.model import memory
from gener_jax.model.sharding import make_mesh
from gener_jax.runtime.errors import CheckpointError, ConfigError
from gener_jax.storage import provenance, run_folder
from gener_jax.storage.huggingface import weights
from gener_jax.storage.provenance import Provenance
from gener_jax.train import train
from tests import finetuned, tiny
from tests.conftest import random_params
from tests.data import FIXTURES, peer_path
from tests.published import assert_close, load, two_mers
from tests.raised import raises

pytestmark = pytest.mark.usefixtures("one_device")

MODEL = Model(
    vocab_size=32 + 4**3, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.3,
)  # fmt: skip


def make_lm(**model):
    """A random model over 3-mers."""
    model = dataclasses.replace(MODEL, **model)
    spec = ModelSpec(name="random", model=model, tokenizer=Tokenizer(k=3))
    return LM(spec, random_params(model), make_mesh(1, 1, 1, jax.devices()[:1]))


def published(folder, lm, dtype="float32"):
    folder.mkdir()
    convert.write_published(folder, lm.spec, lm.params, dtype, lm.provenance)
    return folder


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), a, b))


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("change", [{"yarn_factor": 4.0, "yarn_beta_fast": 16.0}, {"sliding_window": 9}])
def test_round_trip_is_bit_equal(change, tmp_path, capsys):
    lm = make_lm(**change)
    lm.spec = dataclasses.replace(lm.spec, name="first")  # as loading names it, after its folder
    lm.provenance = Provenance(({"dataset": "1", "special_tokens": ["<s>"]},), step=7, held_out={"step": 7})
    first = published(tmp_path / "first", lm)
    convert.main(["--checkpoint", str(first), "--output", str(tmp_path / "run"), "--format", "run"])
    assert last_line(capsys)["format"] == "run"
    convert.main(["--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "second"), "--format", "hf"])
    assert last_line(capsys)["step"] == 0
    assert sorted(p.name for p in first.iterdir()) == sorted(p.name for p in (tmp_path / "second").iterdir())
    for file in first.iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes(), file.name
    assert same(gener_jax.load(tmp_path / "run").params, lm.params)
    loaded = gener_jax.load(tmp_path / "second")
    assert same(loaded.params, lm.params)
    assert dataclasses.asdict(loaded.spec.model) == dataclasses.asdict(lm.spec.model)
    assert loaded.tokenizer.digest == lm.tokenizer.digest
    assert loaded.provenance == gener_jax.load(tmp_path / "run").provenance == lm.provenance
    assert {"config.json", "environment.json", "checkpoints"} <= {p.name for p in (tmp_path / "run").iterdir()}


def test_stored_dtype_is_kept_by_default(tmp_path):
    lm = make_lm()
    low = published(tmp_path / "low", lm, "bfloat16")
    for given, dtype in ((["--dtype", "float32"], "F32"), ([], "BF16"), (["--dtype", "float16"], "F16")):
        out = tmp_path / dtype
        convert.main(["--checkpoint", str(low), "--output", str(out), "--format", "hf", *given])
        names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
        assert json.loads((out / "config.json").read_text())["torch_dtype"] == names[dtype]
        assert {t.dtype.name for t in load_file(out / "model.safetensors").values()} == {names[dtype]}
    assert (tmp_path / "BF16" / "model.safetensors").read_bytes() == (low / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of seconds over 3-mers."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny.config(tiny.genomes(folder / "dataset"), checkpoint__every_steps="6", eval__every_steps="6")
    train(config, folder / "run")
    return folder / "run"


def test_exported_run_evaluates_and_samples_alike(run, tmp_path, capsys):
    out = tmp_path / "hf"
    convert.main(["--checkpoint", str(run), "--output", str(out), "--format", "hf"])
    assert last_line(capsys)["step"] == 12
    a, b = gener_jax.load(run), gener_jax.load(out)
    assert same(a.params, b.params)
    data = str(run.parent / "dataset")
    evaluate.main(["--checkpoint", str(run)])
    ours = last_line(capsys)
    overrides = ["--config.data.context_length=32", "--config.eval.max_regions=8", f"--config.data.path={data}"]
    evaluate.main(["--checkpoint", str(out), *overrides])
    printed = capsys.readouterr()
    theirs = json.loads(printed.out.splitlines()[-1])
    [ours], [theirs] = ours["evaluations"], theirs["evaluations"]
    bits, expected = (each["metrics"]["bits_per_base"]["value"] for each in (theirs, ours))
    assert bits == pytest.approx(expected, abs=1e-6)
    assert (ours["model"]["step"], theirs["model"]["step"]) == (12, None)
    assert "warning" not in printed.err  # an export records its training data
    drawn = []
    for folder in (run, out):
        options = ["--prompt", "ATGAC", "--num_bases", "30", "--temperature", "0", "--seed", "0", "--num_samples", "1"]
        sample.main(["--checkpoint", str(folder), *options])
        drawn.append(capsys.readouterr().out)
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith(">sample_1 ")


def test_exported_run_says_what_it_was_trained_on(run, tmp_path, capsys):
    """In its card and its provenance, which differ by checkpoint, and in a warning of a tag."""
    info = read_info(run.parent / "dataset")
    cards, found = {}, {}
    for step in (12, 6):
        out = tmp_path / f"{step}"
        convert.main(["--checkpoint", str(run), "--output", str(out), "--format", "hf", "--step", str(step)])
        cards[step], found[step] = (out / "README.md").read_text(), provenance.read(out)
        assert (found[step].step, found[step].tokens) == (step, step * 8 * 32)
        for fact in (info["digest"], f"{info['splits']['train']['bases']:,} bases", *info["accessions"]):
            assert fact in cards[step]
        assert f"{found[step].held_out['bits_per_base']:.4f}" in cards[step]
    assert found[12].held_out["bits_per_base"] != found[6].held_out["bits_per_base"]
    assert f"| Markov model of order 5 | {found[12].held_out['markov_5']:.4f} |" in cards[12]
    assert "| Markov" not in cards[6]  # which was not compared with them
    prompt = ["--prompt", "<mam>ATG", "--num_bases", "3"]
    capsys.readouterr()
    for folder in (run, tmp_path / "12"):
        with pytest.warns(UserWarning, match="without <mam>"):
            sample.main(["--checkpoint", str(folder), *prompt])
    (tmp_path / "12" / provenance.FILE).unlink()
    with warnings.catch_warnings(action="error"):
        sample.main(["--checkpoint", str(tmp_path / "12"), *prompt])


@pytest.mark.slow
def test_training_starts_from_a_published_model(run, tmp_path, capsys):
    out = tmp_path / "hf"
    convert.main(["--checkpoint", str(run), "--output", str(out), "--format", "hf"])
    config = tiny.config(run.parent / "dataset", train__num_steps="2", train__init_from=str(out),
                         optimizer__peak_learning_rate="1e-30", model__rope_theta="600000")  # fmt: skip
    train(config, tmp_path / "next")
    assert "starting from the parameters of" in (printed := capsys.readouterr().err)
    assert "model.rope_theta 500000.0 → 600000.0" in printed
    assert same(gener_jax.load(tmp_path / "next").params, gener_jax.load(run).params)
    other = tiny.config(run.parent / "dataset", tokenizer__k="2", train__init_from=str(out))
    with pytest.raises(ConfigError, match=r"train\.init_from .*kmer-3"):
        train(other, tmp_path / "other")
    wide = tiny.config(run.parent / "dataset", model__hidden_size="32", train__init_from=str(out))
    with pytest.raises(CheckpointError) as caught:
        train(wide, tmp_path / "wide")
    assert caught.value.name.endswith(".weight")


def test_run_cannot_resume_from_parameters_alone(run, tmp_path):
    convert.main(["--checkpoint", str(run), "--output", str(tmp_path / "alone"), "--format", "run"])
    with raises(CheckpointError, path=tmp_path / "alone" / "config.json"):
        train(run_folder.read(run), tmp_path / "alone")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --output with --format hf, run or peft, or --verify"),
        (["--output", "{tmp}/x"], "give --output with --format"),
        (["--format", "hf"], "give --output with --format"),
        (["--output", "{tmp}", "--format", "hf"], "already exists"),
        (["--output", "{tmp}/x", "--format", "run", "--dtype", "float16"], "--dtype is 'float16': "),
    ],
)
def test_bad_command_lines(arguments, words, small_folder, tmp_path):
    with pytest.raises(ConfigError) as error:
        convert.main(["--checkpoint", str(small_folder), *(a.format(tmp=tmp_path) for a in arguments)])
    assert words in str(error.value)
    assert str(error.value).isprintable()
    assert not (tmp_path / "x").exists()


@pytest.fixture
def small_folder(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    return two_mers(folder, load(FIXTURES / "llama_h16_g2.npz"))


def test_failed_write_leaves_no_files(tmp_path, monkeypatch):
    folder = published(tmp_path / "in", make_lm())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "write", full)
    for out in ("out", "deep/er/out"):
        with pytest.raises(OSError, match="No space left"):
            convert.main(["--checkpoint", str(folder), "--output", str(tmp_path / out), "--format", "hf"])
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_other_files_are_not_removed(tmp_path):
    lm = make_lm()
    source, other = published(tmp_path / "out.partial", lm), tmp_path / ".out.x"
    other.mkdir()
    convert.main(["--checkpoint", str(source), "--output", str(tmp_path / "out"), "--format", "hf"])
    assert source.is_dir()
    assert other.is_dir()
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    with raises(ConfigError, field="--output", value=str(tmp_path / "link")):
        convert.main(["--checkpoint", str(source), "--output", str(tmp_path / "link"), "--format", "hf"])
    with raises(ConfigError, field="--output", value=str(other)):  # no model: not ours to remove
        convert.main(["--checkpoint", str(source), "--output", str(other), "--format", "hf", "--overwrite"])
    (other / "config.json").write_text("")
    (other / "file").write_text("")
    for out in (other, tmp_path / "link"):
        convert.main(["--checkpoint", str(source), "--output", str(out), "--format", "hf", "--overwrite"])
        assert (out / "model.safetensors").exists()
        assert not out.is_symlink()
    assert not (other / "file").exists()
    assert not (tmp_path / "absent").exists()


def test_dtype_is_that_of_the_tensors(tmp_path):
    """config.json may give another dtype."""
    folder = published(tmp_path / "in", make_lm())
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"float32"', '"bfloat16"'))
    convert.main(["--checkpoint", str(folder), "--output", str(tmp_path / "out"), "--format", "hf"])
    assert (tmp_path / "out/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_shapes_that_transformers_rejects_are_not_written(tmp_path):
    with raises(ConfigError, field="model.hidden_size", value=18):
        published(tmp_path / "out", make_lm(hidden_size=18, num_attention_heads=4, head_dim=8))


def test_bpe_has_no_published_form(tmp_path):
    spec = types.SimpleNamespace(tokenizer=types.SimpleNamespace(kind="bpe"))
    with raises(ConfigError, field="tokenizer.kind", value="bpe"):
        convert.write_published(tmp_path, spec, {})


def test_name_that_is_not_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with raises(CheckpointError, path="GenerTeam/GENERator-eukaryote-3b-base") as caught:
        convert.main(["--checkpoint", "GenerTeam/GENERator-eukaryote-3b-base", "--verify"])
    assert str(tmp_path) in str(caught.value)
    cached = tmp_path / "models--GenerTeam--GENERator-eukaryote-3b-base" / "snapshots" / "main"
    cached.parent.mkdir(parents=True)
    published(cached, make_lm())
    assert gener_jax.load("GenerTeam/GENERator-eukaryote-3b-base").spec.name == "GENERator-eukaryote-3b-base"


# ------------------------------------------------------------------------------------------------------- memory


def test_memory_is_checked_before_loading(tmp_path, monkeypatch):
    folder = published(tmp_path / "random", make_lm())
    (folder / "model.safetensors").write_bytes(b"")  # reading it would raise another error
    monkeypatch.setattr(memory, "available", lambda: 1e-6)
    with pytest.raises(MemoryError, match=r"random needs .* GiB .*16 × 64 tokens") as error:
        gener_jax.load(folder)
    assert "bfloat16" in str(error.value)
    with pytest.raises(CheckpointError):
        gener_jax.load(folder, check_memory=False)


def test_memory_of_the_cache_is_checked(tmp_path, monkeypatch, eight_devices):
    lm = make_lm()
    folder = published(tmp_path / "random", lm)
    need = memory.inference_needs(lm.spec.model, lm.mesh.shape, 1, 64)
    assert need["weights"] == sum(x.nbytes for x in jax.tree.leaves(lm.params)) / 2**30
    assert need["cache"] == 2 * 2 * 64 * 1 * 8 * 4 / 2**30  # k and v × layers × tokens × heads × head size × bytes
    monkeypatch.setattr(memory, "available", lambda: need["weights"] + need["cache"] / 2)
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    with pytest.warns(UserWarning, match="random needs"):
        tight = gener_jax.load(folder, mesh=mesh)
    assert len(tight.generate(["ACG"], 3)[0]) == 3
    with pytest.raises(MemoryError, match="16 × "):
        tight.generate(["ACG"] * 16, 90)
    options = ["--checkpoint", str(folder), "--prompt", "ACG", "--num_bases", "150", "--num_samples", "32"]
    monkeypatch.setattr(memory, "available", lambda: need["weights"] / 8 + need["cache"] / 2)
    with pytest.raises(MemoryError, match="random needs on each of 8 cpu"):
        sample.main(options)


def test_bfloat16_needs_half_the_memory(eight_devices):
    lm = make_lm()
    low = with_model(lm.spec, dtype="bfloat16")
    a, b = (memory.inference_needs(c.model, lm.mesh.shape, 4, 64) for c in (lm.spec, low))
    assert a["weights"] == 2 * b["weights"]
    assert a["cache"] == 2 * b["cache"]
    wide = make_mesh(2, 2, 2)
    assert memory.inference_needs(lm.spec.model, wide.shape, 4, 64)["weights"] == a["weights"] / 4
    assert (
        memory.inference_needs(lm.spec.model, wide.shape, 4, 64)["cache"] == a["cache"] / 4
    )  # one key-value head is not sharded along `tensor`


# ------------------------------------------------------------------------------------------------ with transformers


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_verify_without_transformers(package, tmp_path, monkeypatch):
    folder = published(tmp_path / "in", make_lm())
    (folder / "model.safetensors").unlink()  # reading it would raise another error
    monkeypatch.setitem(sys.modules, package, None)
    with raises(CheckpointError, path=None) as caught:
        convert.main(["--checkpoint", str(folder), "--verify"])
    assert "pip install -e '.[parity]'" in str(caught.value)


def needs_transformers():
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install -e '.[parity]'")


@pytest.fixture(scope="module")
def transformers_folders(tmp_path_factory):
    """Makes, by size and storage, a folder written by transformers, and the outputs of transformers in float32."""
    needs_transformers()
    import torch

    peer = runpy.run_path(str(peer_path("hf_llama.py")))

    @functools.cache
    def made(size, *, shard="50GB", dtype="float32"):
        folder = tmp_path_factory.mktemp(size)
        peer["build"](size, "sdpa").to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
        ids = torch.randint(32, peer["VOCAB"], (2, 128), generator=torch.Generator().manual_seed(1))
        model = peer["LlamaForCausalLM"].from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            out = model(ids, output_hidden_states=True)
        return folder, ids.numpy(), out.logits.numpy(), np.stack([h.numpy() for h in out.hidden_states])

    return made


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_in_full")
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ("xs", {"shard": "1MB", "dtype": "bfloat16"}),
        ("s", {}),
    ],
)
def test_folders_written_by_transformers(size, options, transformers_folders):
    from gener_jax.inference.parity import ours

    folder, ids, logits, states = transformers_folders(size, **options)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == ("shard" in options)
    lm = gener_jax.load(folder)
    found = ours(lm, ids)
    assert len(found.hidden) == lm.spec.model.num_hidden_layers + 1 == len(states)
    for layer, expected in zip(found.hidden, states, strict=True):
        assert_close(layer, expected, 1e-5)
        assert np.abs(layer - expected).max() < 1e-4
    assert np.abs(found.logits - logits).max() < 1e-4


def check(folder):
    done = subprocess.run(
        [sys.executable, str(peer_path("hf_llama.py")), "check", "--hf_dir", str(folder)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_in_full")
def test_transformers_computes_our_logits(transformers_folders, tmp_path):
    """Runs the check of the peer program, in another process, on a folder that we write."""
    lm = gener_jax.load(transformers_folders("s")[0])
    theirs = check(published(tmp_path / "out", lm))
    np.testing.assert_allclose(theirs["logits"], lm.logits(np.arange(32, 48)[None])[0, -1, :8], atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_in_full")
@pytest.mark.parametrize("change", [{}, {"yarn_factor": 4.0}, {"sliding_window": 1000}])
def test_four_thousand_tokens_equal_transformers(change, tmp_path):
    """Long enough to detect RoPE frequencies that differ by a rounding."""
    needs_transformers()
    from gener_jax.inference import parity

    lm = make_lm(**{"head_dim": 64, "max_position_embeddings": 4096, "initializer_range": 0.1, **change})
    ids = np.random.default_rng(0).integers(32, 96, (1, 4080)).astype(np.int32)
    theirs = parity.theirs(published(tmp_path / "hf", lm), ids, lm.spec.model)
    for what, difference, size in parity.differences(parity.ours(lm, ids), theirs):
        assert difference < 1e-4 * max(1, size), what


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"head_dim": 32, "sliding_window": 9}, {"yarn_factor": 2.0, "rope_theta": 5e6}])
def test_verify(change, tmp_path, capsys):
    needs_transformers()
    lm = make_lm(**{"max_position_embeddings": 40, **change})
    folder = published(tmp_path / "hf", lm)
    for checkpoint in (folder, tmp_path / "run"):
        if checkpoint.name == "run":
            convert.main(["--checkpoint", str(folder), "--output", str(checkpoint), "--format", "run"])
            capsys.readouterr()
        convert.main(["--checkpoint", str(checkpoint), "--verify"])
        lines = capsys.readouterr().out.splitlines()
        assert json.loads(lines[-1])["equal"] is True
        assert [line.split("  ")[0] for line in lines if "e-" in line or "e+" in line][:-2] == [
            "embedded", "layer 1", "last norm", "logits"
        ]  # fmt: skip
        ours, theirs = (line.split()[-16:] for line in lines if line.startswith("greedy ids"))
        assert ours == theirs
    options = ["--checkpoint", str(folder), "--verify", "--config.model.rms_norm_eps=0.01"]
    convert.main(options)  # compared with the model of the command line, not with the folder's
    assert last_line(capsys)["equal"] is True
    (folder / "generation_config.json").write_text('{"repetition_penalty": 1.8}')
    assert convert.verify(lm, folder)["equal"] is True
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "rms_norm_eps": 0.1}))
    wrong = gener_jax.load(tmp_path / "run")
    assert convert.verify(wrong, folder)["equal"] is False  # a wrong model is detected
    layer = {
        **lm.params["layers_0"],
        "up": lm.params["layers_0"]["up"] * 1e30,
        "gate": lm.params["layers_0"]["gate"] * 1e30,
    }
    lost = LM(lm.spec, {**lm.params, "layers_0": layer}, lm.mesh)
    assert convert.verify(lost, None)["equal"] is False  # NaN is not equal
    raw["hidden_size"] = 17
    (folder / "config.json").write_text(json.dumps(raw))
    with raises(CheckpointError, path=folder):
        convert.verify(lm, folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_transformers_generates_dna(tmp_path):
    """Also where special tokens are likelier than k-mers, as they may be untrained."""
    needs_transformers()
    import transformers

    lm = make_lm()
    lm.params["lm_head"] = lm.params["lm_head"] * np.where(np.arange(lm.tokenizer.vocab_size) < NUM_SPECIAL, 100, 1)
    folder = published(tmp_path / "hf", lm)

    def generated():
        made = transformers.pipeline("text-generation", model=str(folder))
        options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}  # at least 5: </s> is not suppressed
        return made("ACGTTTGCA", return_full_text=False, **options)[0]["generated_text"]

    assert re.fullmatch("[ACGT]{15}", generated())
    (folder / "generation_config.json").unlink()
    assert generated() == ""


# -------------------------------------------------------------------------------------------------------- with a head


@pytest.mark.parametrize("bias", [False, True])
def test_a_head_is_exported_and_read_back(bias, tmp_path):
    lm = make_lm()
    head = Head("single_label", ("no", "yes"), bias=bias, temperature=2.0)
    run = finetuned.write(tmp_path / "run", lm, head)
    for name, form, source in (("hf", "hf", run), ("back", "run", tmp_path / "hf"), ("again", "hf", tmp_path / "back")):
        convert.main(["--checkpoint", str(source), "--output", str(tmp_path / name), "--format", form])
        loaded = gener_jax.load(tmp_path / name)
        assert loaded.head == head
        assert same(loaded.head_params, finetuned.head_params(lm, head))
        assert same(loaded.params, lm.params)
    fields = json.loads((tmp_path / "hf/config.json").read_text())
    assert fields["architectures"] == ["LlamaForCausalLM" if bias else "LlamaForSequenceClassification"]
    assert fields.get("id2label") == (None if bias else {"0": "no", "1": "yes"})
    assert ("score.weight" in load_file(tmp_path / "hf/model.safetensors")) is not bias
    (tmp_path / "hf/head.json").unlink()
    if not bias:  # a classifier of others is refused
        with raises(CheckpointError, path=tmp_path / "hf/config.json", name="architectures"):
            gener_jax.load(tmp_path / "hf")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_transformers_computes_the_outputs_of_a_head(tmp_path):
    needs_transformers()
    import torch
    import transformers

    lm = make_lm()
    run = finetuned.write(tmp_path / "run", lm, Head("single_label", ("no", "yes"), bias=False))
    convert.main(["--checkpoint", str(run), "--output", str(tmp_path / "hf"), "--format", "hf"])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    assert model.config.id2label == {0: "no", 1: "yes"}
    texts = ["ACGTTGACCGTA", "TTGACC"]
    rows = [lm.frame(lm.tokenizer.encode(text)) for text in texts]
    ids = right_pad(rows, 8)
    with torch.no_grad():
        mask = torch.tensor((ids != PAD).astype(int).tolist())
        found = model(torch.tensor(ids.tolist()), attention_mask=mask).logits.softmax(-1).numpy()
    np.testing.assert_allclose(found, gener_jax.load(tmp_path / "hf").predict(texts).probabilities, atol=1e-5)
