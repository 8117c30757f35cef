"""What is read from a compiled step: programs compiled for H100s, cut to the lines that matter; and a soak."""

import json
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

from gener_jax.runtime import program, targets
from gener_jax.runtime.errors import ConfigError
from gener_jax.training import compiling
from tests.raised import raises
from tests.test_plan import config_of

ROOT = Path(__file__).parents[1]
# `plan --devices 2 --device h100 --compile given` of a small model in bfloat16: hidden size 128, 352 in the MLP, a
# vocabulary of 4128, 8 rows of 512 tokens. The first: 4 layers, 4 heads on 2 of 32, fsdp 2. The second: 3 layers, 2
# heads on 2 of 64, context 2, documents.
CUDNN, TRITON = (
    (Path(__file__).parent / "programs" / f"{name}.txt").read_text() for name in ("cudnn_fsdp_2", "triton_context_2")
)


def test_attention_kernels_are_counted_as_often_as_they_run():
    assert compiling.attention(CUDNN) == ({"cudnn": {"forward": 4, "backward": 4}}, True)
    assert compiling.attention(TRITON) == ({"triton": {"forward": 3, "backward": 3}}, True)
    unknown = CUDNN.replace('{"known_trip_count":{"n":"4"}}', "{}")
    assert compiling.attention(unknown) == ({"cudnn": {"forward": 1, "backward": 1}}, False)
    repeated = CUDNN.replace("/dot_product_attention_bwd", "/rematted_computation/dot_product_attention_fwd")
    repeated = repeated.replace("fmhaSoftmaxBackward", "fmhaSoftmax")  # remat that keeps nothing of cuDNN
    assert compiling.attention(repeated)[0] == {"cudnn": {"forward": 8, "backward": 0}}
    assert compiling.attention(CUDNN.replace("__cudnn$fmha", "__cublas$gemm")) == ({}, True)


def test_bytes_equal_a_direct_count():
    layer = 128 * (4 * 32 + 2 * 2 * 32 + 128 + 3 * 352)  # weights
    table = 4128 * 128
    found = program.traffic(CUDNN, 2)
    # Each layer once per direction in bfloat16; the embedding in float32, the output projection once per direction.
    assert found["all-gather"] == (2 * 4 + 1, 2 * 4 * layer * 2 / 2 + table * (4 + 2 + 2) / 2)
    assert found["reduce-scatter"] == (4 + 1, 4 * layer * 2 / 2 + table * 2 / 2)
    # The embedding's gradient with those of the norms and scalars, and two counts.
    assert found["all-reduce"] == (3, (table + 9 * 128 + 18 + 2) * 4)
    assert set(found) == {"all-gather", "reduce-scatter", "all-reduce"}
    exchanged = 8 * 512 * 2 * 64 * 2 / 2  # of a device: all rows, half the tokens, all heads
    assert program.traffic(TRITON, 2)["all-to-all"] == (3 * 6, 3 * 6 * exchanged / 2)


def one(line, extra=""):
    return f"HloModule m\n{extra}\nENTRY %main (x: f32[8]) -> f32[8] {{\n  {line}\n}}\n"


@pytest.mark.parametrize(
    ("operation", "groups", "sent"),
    [
        ("f32[64]{0} all-gather(%x)", "{{0,1,2,3},{4,5,6,7}}", 256 * 3 / 4),
        ("f32[64]{0} all-gather(%x)", "[1,8]<=[8]", 256 * 7 / 8),
        ("f32[64]{0} all-gather(%x)", "[4,2]<=[2,4]T(1,0)", 256 / 2),
        ("f32[64]{0:T(128)} all-gather(%x)", "{}", 256 * 7 / 8),
        ("bf16[8,3]{1,0} reduce-scatter(%x)", "mesh['a'=2,'b'=4] {'b'}", 48 * 3),
        ("bf16[8,3]{1,0} reduce-scatter(%x)", "mesh['a'=2,'b'=4] {'a','b':(1)2}", 48 * 3),
        ("(f32[], pred[5]{0}) all-reduce(%x, %y)", "{{0,1},{2,3}}", 9),
        ("(f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%x)", None, 16),
        ("f32[4]{0} ragged-all-to-all(%x)", None, 16 * 7 / 8),
    ],
)
def test_groups_and_kinds_of_collectives(operation, groups, sent):
    [found] = program.traffic(one(f"%a = {operation}" + (f", replica_groups={groups}" if groups else "")), 8).values()
    assert found == (1, pytest.approx(sent))


def test_programs_that_cannot_be_read():
    with pytest.raises(ValueError, match="replica_groups=@somewhere"):
        program.traffic(one("%a = f32[4]{0} all-gather(%x), replica_groups=@somewhere"), 8)
    with pytest.raises(ValueError, match="no entry"):
        program.traffic("", 8)


def test_calls_inside_calls():
    """A fusion in a loop in a loop, and both branches of a conditional."""
    inner = "%f (p: f32[4]) -> f32[4] {\n  ROOT %r = f32[4]{0} all-to-all(%p)\n}\n"
    loops = "\n".join(
        f'%{name} (p: (s32[], f32[4])) -> (s32[], f32[4]) {{\n  %w = (s32[], f32[4]{{0}}) {line}\n}}\n'
        for name, line in (
            ("b2", "fusion(%p), kind=kCustom, calls=%f"),
            ("b1", 'while(%p), condition=%c, body=%b2, backend_config={"known_trip_count":{"n":"3"}}'),
        )
    )  # fmt: skip
    for line, times in (
        ('while(%t), condition=%c, body=%b1, backend_config={"known_trip_count": {"n": "5"}}', 5 * 3),
        ("conditional(%i, %x, %y), branch_computations={%f, %b2}", 2),
        ("conditional(%i, %x, %y), true_computation=%f, false_computation=%f", 2),
        ("async-start(%x), calls=%f", 1),
    ):
        text = one(f"%a = (s32[], f32[4]{{0}}) {line}", inner + loops + "\n%c (p: s32[]) -> pred[] {\n}\n")
        assert program.traffic(text, 2)["all-to-all"].calls == times


# As libtpu writes it: an attribute of several lines, a loop whose number of iterations is in its condition alone, a
# reduce-scatter as a fusion, and a computation for the sparse core.
TPU = """HloModule jit_step, is_scheduled=true

%all-reduce-scatter.2.clone.1 (input: f32[8,16]) -> f32[8,4] {
  %all-reduce.8 = f32[8,16]{1,0:T(8,128)} all-reduce(%input), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %slice.1 = f32[8,4]{1,0:T(8,128)} dynamic-slice(%all-reduce.8, %c, %i), dynamic_slice_sizes={8,4}
}

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %a = f32[]{:T(128)} add(%x, %y)
}

%sparse (p: s32[8]) -> s32[8] {
  ROOT %q = s32[8]{0} copy(%p)
}, execution_thread="sparsecore"

%cond (p: (s32[], f32[8,4])) -> pred[] {
  %constant.3 = s32[]{:T(128)} constant(26)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt.71 = pred[]{:T(512)} compare(%i.1, %constant.3), direction=LT, metadata={op_name="while/cond/lt"}
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %splash.1 = bf16[8,4]{1,0:T(8,128)(2,1)} custom-call(%q), custom_call_target="tpu_custom_call", attributes={metadata={
"block_q": "512"
}}, metadata={op_name="jit(step)/layers/splash_mha_fwd_residuals/pallas_call"}
  %fusion.1 = f32[8,4]{1,0} fusion(%splash.1), kind=kCustom, calls=%all-reduce-scatter.2.clone.1
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %s = s32[8]{0} call(%x), to_apply=%sparse
  %w = (s32[], f32[8,4]{1,0}) while(%t), condition=%cond, body=%body, metadata={op_name="jit(step)/while"}
}
"""


def test_a_program_for_a_tpu():
    assert compiling.attention(TPU) == ({"splash": {"forward": 26, "backward": 0}}, True)
    assert program.traffic(TPU, 4) == {"reduce-scatter": (26, 26 * 8 * 4 * 4 * 3)}
    unknown = TPU.replace("direction=LT", "direction=GT")
    assert compiling.attention(unknown) == ({"splash": {"forward": 1, "backward": 0}}, False)


def test_figures_as_text():
    found = {
        "peak_gib": 50.0, "arguments_gib": 13.0, "temporary_gib": 37.0, "seconds": 61.4, "kernels_exact": True,
        "kernels": {"cudnn": {"forward": 52, "backward": 26}},
        "collectives": {"all-gather": {"calls": 54, "sent_bytes": 2**30}, "all-reduce": {"calls": 1, "sent_bytes": 8}},
    }  # fmt: skip
    formula = {"peak_gib": 51.0, "sent_gib_per_step": {"all-gather": 1.25, "all-reduce": 0}}
    text = compiling.described(found, config_of("euk_1b"), formula, "8 × h100")
    assert text.splitlines() == [
        "compiled for 8 × h100 in 61 s, not run",
        "  per device  50.00 GiB at most, by formula 51.00 (+2%): arguments 13.00, temporary 37.00",
        "  attention   cudnn 52 forward (2 per layer), 26 backward (1 per layer)",
        "  sends       GiB per step: all-gather 1.00 in 54 calls, by formula 1.25; all-reduce 0.00 in 1 call",
    ]
    config = config_of("euk_1b", train__accumulate=2)
    nothing = found | {"kernels": {}, "collectives": {}}
    assert "without a kernel" in compiling.described(nothing, config, formula, "h100")
    least = compiling.described(found | {"kernels_exact": False}, config, formula, "h100")
    assert "cudnn at least 52 forward (1 per layer), 26 backward (0.5 per layer)" in least


def test_a_program_that_jax_cannot_read(monkeypatch):
    """Of another version's libtpu the memory is known all the same."""

    def unreadable():
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure\nasync-update")

    stats = types.SimpleNamespace(
        peak_memory_in_bytes=2**31, argument_size_in_bytes=2**30, temp_size_in_bytes=2**30
    )  # fmt: skip
    compiled = types.SimpleNamespace(as_text=unreadable, memory_analysis=lambda: stats)
    monkeypatch.setattr(compiling, "compiled_step", lambda config, devices: compiled)
    found = compiling.figures(config_of("euk_1b"), [None])
    assert found["peak_gib"] == 2
    assert found["kernels"] is found["kernels_exact"] is found["collectives"] is None
    formula = {"peak_gib": 2.0, "sent_gib_per_step": {}}
    lines = compiling.described(found, config_of("euk_1b"), formula, "v5p:4x4x4").splitlines()
    assert lines[1].startswith("  per device  2.00 GiB at most")
    assert lines[2:] == [
        "  attention and sends are not known: this jax cannot read the compiled program: INTERNAL: RET_CHECK failure "
        "async-update; the extras tpu and cuda have its compilers"
    ]


def test_gpus_without_the_plugin(monkeypatch):
    monkeypatch.setattr(targets, "_exists", lambda module: False)
    with raises(ConfigError, field="--device", value="h100") as caught:
        targets.gpus("h100", 8)
    assert "pip install -e '.[cuda]'" in str(caught.value)
    assert "\n" not in str(caught.value)


needs_cuda = pytest.mark.skipif(
    not targets.has_cuda(), reason="needs JAX's CUDA plugin and cuDNN, no GPU: pip install -e '.[cuda]'"
)


@pytest.mark.soak
@needs_cuda
@pytest.mark.parametrize(("device", "devices"), [("a100", 1), ("h100", 2), ("h200", 1)])
def test_a_step_compiled_for_gpus(device, devices):
    """Compiles a small bfloat16 model: a forward and a backward kernel per layer, and what fsdp sends."""
    done = subprocess.run(
        [
            sys.executable, "-m", "gener_jax.plan", "--config=experiments/quickstart.py", "--json",
            "--config.model.dtype=bfloat16", f"--config.mesh.fsdp={devices}", "--config.model.remat=dots",
            f"--devices={devices}", f"--device={device}", "--compile=given",
        ],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])["compiled"]
    assert found["configuration"] == "given"
    assert found["kernels"] == {"cudnn": {"forward": 4, "backward": 4}}
    assert found["kernels_exact"]
    assert found["peak_gib"] > 0
    assert {"all-gather", "reduce-scatter"} <= set(found["collectives"]) if devices > 1 else not found["collectives"]


@pytest.mark.soak
@needs_cuda
def test_no_stack_of_the_scan_is_filled_with_zeros():
    """With the flag that one GPU gets: the stacks of what remat saves and of the gradients are only allocated."""
    program = """
from gener_jax.runtime import flags
assert flags.add("gpu", several=False)
from gener_jax.runtime import targets
from gener_jax.training import compiling
from tests.test_plan import config_of
config = config_of("quickstart", model__dtype="bfloat16")
text = compiling.compiled_step(config, targets.gpus("h100", 1)).as_text()
print(text.count('custom_call_target="AllocateBuffer"'), text.count(" dynamic-update-slice("))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-2:] == ["18"] * 2  # the gradients of nine arrays of a layer; nine that remat saves
