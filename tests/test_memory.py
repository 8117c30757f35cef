"""The memory of a compiled training step is linear in the context length; loading a published model needs its size and
one shard."""

import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from flax import linen as nn

from gener_jax import config as configuration
from gener_jax.benchmarks import train
from gener_jax.model import decoder, memory
from gener_jax.model.sharding import TOKENS, batch_sharding, make_mesh
from gener_jax.model.trainable import split
from gener_jax.storage.huggingface import config as published_config
from gener_jax.storage.huggingface import weights
from gener_jax.training.objectives import CrossEntropy
from gener_jax.training.step import abstract_state, make_train_step
from tests.conftest import random_params

pytestmark = pytest.mark.usefixtures("compiled_in_full")


def compiled_step(length: int, **model):
    values = configuration.base()
    values.model.update(num_hidden_layers=2, **model)
    values.data.context_length = length
    values.train.batch_size = 1
    config = configuration.resolve(values)
    objective = CrossEntropy(config.tokenizer.make())
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    row = jax.ShapeDtypeStruct((1, length), np.int32, sharding=batch_sharding(mesh))
    batch = {"inputs": row, "targets": row}
    step = make_train_step(config, mesh, objective, dict.fromkeys(batch, TOKENS))
    with jax.set_mesh(mesh):
        return step.lower(abstract_state(config, mesh), {}, batch).compile(), config


@pytest.mark.slow
def test_step_memory_is_linear_in_length():
    """Two layers of 1.2b width at 16 384 and 4096 tokens; materialised scores would give a ratio above 8."""
    remat = "full"  # the next test covers the other policies
    short, _ = compiled_step(4096, remat=remat)
    long, config = compiled_step(16384, remat=remat)
    sizes = [c.memory_analysis().temp_size_in_bytes for c in (short, long)]
    print(f"remat {remat}: temporary memory {sizes[0] / 2**30:.2f} GiB at 4096, {sizes[1] / 2**30:.2f} at 16384 tokens")
    assert sizes[1] < 4.5 * sizes[0]
    # The formula that decides whether a run starts must agree with the compiler within a factor of two.
    assert 0.5 < memory.training_needs(config, 1)["activations"] / (sizes[1] / 2**30) < 2


@pytest.mark.parametrize("remat", configuration.REMAT)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_formula_for_saved_activations_equals_the_program(remat, dtype):
    """Compares the formula with the arrays that the scan over layers saves for its backward pass, as traced."""
    tokens = 128
    model = configuration.Model(
        vocab_size=68, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention="blockwise", attention_block=tokens, dtype=dtype, remat=remat,
    )  # fmt: skip
    decode = decoder.Decoder(model)

    def total(params, ids):
        return decode.apply({"params": params}, ids)[0].astype(np.float32).sum()

    traced = jax.make_jaxpr(jax.grad(total))(random_params(model), np.zeros((1, tokens), np.int32))
    kept = []
    for scan in (e for e in traced.eqns if e.primitive.name == "scan" and not e.params["reverse"]):
        per_layer = scan.params["jaxpr"].out_avals  # stacked outputs have one more dimension outside the scan
        stacked = [x.aval for x, one in zip(scan.outvars, per_layer, strict=True) if x.aval.ndim > one.ndim]
        kept.append(sum(x.size // 2 * x.dtype.itemsize for x in stacked if tokens in x.shape))  # not weights
    ratio = memory.kept_by_a_layer(model) * tokens / max(kept)
    assert 0.98 < ratio < 1.02


@pytest.mark.parametrize(
    ("layers_unrolled", "by_the_compiler"), [(1, 51.25), (26, 64.07)]
)  # GiB, 1.2b, bfloat16, remat dots, 16 x 2048 tokens, jax 0.11.2 on one H200: docs/results.md
def test_the_formula_is_near_the_compilers_figure_for_a_gpu(layers_unrolled, by_the_compiler):
    model = configuration.Model(vocab_size=4128, dtype="bfloat16", remat="dots", scan_unroll=layers_unrolled)
    config = configuration.Config(
        model=model, data=configuration.Data(context_length=2048), mesh=configuration.Mesh(1, 1, 1),
        train=configuration.Train(batch_size=16),
    )  # fmt: skip
    assert sum(memory.training_needs(config, 1).values()) == pytest.approx(by_the_compiler, rel=0.06)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_memory_of_adapters_is_that_of_the_formula(dtype):
    """The compiler's figures of a step, of the whole model and of adapters: what comes in, exactly; the rest about."""
    found, needed, rest = {}, {}, {}
    for method in ("full", "lora"):
        args = types.SimpleNamespace(size="m", dtype=dtype, remat="dots", unroll=False, finetune=method)
        config, mesh = train.config_of(args, 4, 256), make_mesh(1, 1, 1, jax.devices()[:1])
        work = train.fine_tuning(config)
        parts = {"trains": work.trains, "init": work.init}
        shapes = split(nn.unbox(decoder.abstract(config.model, work.init)), work.trains)[1]
        frozen = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)
        step = make_train_step(config, mesh, work.objective, work.axes, **parts)
        with jax.set_mesh(mesh):
            stats = step.lower(abstract_state(config, mesh, **parts), frozen, work.batch).compile().memory_analysis()
        needs = memory.training_needs(config, 1, **parts)
        came = needs["parameters"] + needs["optimizer"] + needs["frozen"]
        assert came == pytest.approx(stats.argument_size_in_bytes / 2**30, rel=1e-3)
        needed[method], rest[method] = sum(needs.values()), stats.temp_size_in_bytes / 2**30
        found[method] = came + rest[method]
        print(dtype, method, f"by the compiler {found[method]:.3f} GiB, by formula {needed[method]:.3f}: {needs}")
        assert needed[method] == pytest.approx(found[method], rel=0.5)
    assert found["lora"] < 0.7 * found["full"]


LOADS = """
import json, sys
import jax
import gener_jax

def peak():
    # The peak of this process alone; getrusage would include its parent.
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

lm = gener_jax.load(sys.argv[1])  # equal shapes but one layer: the first peak includes the programs
before = peak()
lm = gener_jax.load(sys.argv[2])
print(json.dumps([before, peak(), sum(x.nbytes for x in jax.tree.leaves(lm.params))]))
"""


@pytest.mark.slow
def test_a_published_model_is_loaded_shard_by_shard(tmp_path):
    """16 layers of width 1024: 755 MB in eight shards of up to 100 MB."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    for layers in (1, 16):
        model = configuration.Model(
            vocab_size=4128, hidden_size=1024, intermediate_size=2816, num_hidden_layers=layers, num_attention_heads=16,
            num_key_value_heads=4,
        )  # fmt: skip
        config = configuration.Config(model=model)
        folder = tmp_path / str(layers)
        folder.mkdir()
        (folder / "config.json").write_text(published_config.write(config, "float32"))
        weights.write(folder, decoder.unstack(random_params(model)), "float32", shard_bytes=100 * 10**6)
    shards = [file.stat().st_size for file in folder.glob("*.safetensors")]
    done = subprocess.run(
        [sys.executable, "-c", LOADS, str(tmp_path / "1"), str(folder)], check=True, capture_output=True, text=True
    )
    before, peak, size = json.loads(done.stdout)
    print(f"peak {(peak - before) / 1e6:.0f} MB, model {size / 1e6:.0f}, largest shard {max(shards) / 1e6:.0f}")
    assert len(shards) >= 7
    assert peak - before < size + 1.25 * max(shards)
