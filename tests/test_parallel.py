"""Attention and training over the context axis and over several processes."""

import dataclasses
import functools
import itertools
import json
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.sequence.tokenizer import KmerTokenizer
from gener_jax import config
from gener_jax.model import kernels, parallel
from gener_jax.model.attention import Segments, _bounds, attention
from gener_jax.model.sharding import ROWS, TOKENS, batch_sharding, make_mesh
from gener_jax.runtime import errors
from gener_jax.training.objectives import CrossEntropy
from gener_jax.training.step import abstract_state, make_train_step
from tests import processes, tiny
from tests.raised import raises

MESHES = [m for m in itertools.product((1, 2, 4, 8), repeat=4) if np.prod(m) == 8]  # data, fsdp, tensor, context
SOME = [
    (2, 1, 4, 1),
    (1, 1, 1, 8),
    (1, 2, 2, 2),
]  # all axes, rows divided between processes or not


def test_there_are_twenty_meshes():
    assert len(MESHES) == 20
    assert set(SOME) < set(MESHES)


@pytest.mark.parametrize("n", [2, 4])
def test_the_balanced_order(n):
    mesh = make_mesh(1, 8 // n, 1, context=n)
    ids = np.arange(2 * 16, dtype=np.int32).reshape(2, 16)
    with jax.set_mesh(mesh):
        arrays, axes = {"inputs": ids, "targets": ids + 1, "labels": ids[:, 0]}, {"inputs": TOKENS, "targets": TOKENS}
        batch = jax.jit(lambda arrays: parallel.balance(arrays, {**axes, "labels": ROWS}))(arrays)
        assert np.array_equal(jax.jit(parallel.restore)(batch["inputs"]), ids)
    assert np.array_equal(batch["targets"], batch["inputs"] + 1)
    assert np.array_equal(batch["labels"], ids[:, 0])
    chunks = np.asarray(batch["positions"][0]).reshape(n, 2, -1)  # two per device
    width = 8 // n
    for device, (early, late) in enumerate(chunks):
        assert early.tolist() == list(range(device * width, (device + 1) * width))
        last = 2 * n - 1 - device
        assert late.tolist() == list(range(last * width, (last + 1) * width))
    assert parallel.balance({"inputs": ids}, {"inputs": TOKENS}).keys() == {"inputs"}  # unchanged without a mesh


def arrays(heads, key_heads, length=32, batch=4, head_dim=8):
    rng = np.random.default_rng(0)
    shapes = [(batch, length, n, head_dim) for n in (heads, key_heads, key_heads, heads)]
    q, k, v, weights = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    ids = np.sort(rng.integers(1, 4, (batch, length)), axis=1).astype(np.int32)
    return q, k, v, weights, ids


@pytest.mark.parametrize(
    ("sizes", "heads", "key_heads", "segmented", "window", "implementation"),
    [
        ((1, 1, 1, 8), 4, 2, False, None, "blockwise"),
        ((1, 2, 1, 4), 4, 4, True, 9, "blockwise"),
        ((1, 1, 4, 2), 8, 2, True, None, "blockwise"),  # two devices share a key head
        ((1, 1, 2, 4), 6, 3, False, None, "blockwise"),  # two key heads per device
        ((2, 1, 2, 2), 4, 2, True, 5, "reference"),
        ((2, 2, 2, 1), 4, 2, True, None, "blockwise"),
    ],
)
def test_attention_on_a_mesh_is_attention(sizes, heads, key_heads, segmented, window, implementation):
    q, k, v, weights, ids = arrays(heads, key_heads)
    ids = ids if segmented else None
    how = {"implementation": implementation, "block": 4, "window": window}

    def loss(function, q, k, v, weights):
        out = function(q, k, v)
        return jnp.sum(out * weights), out

    segments = None if ids is None else Segments(ids, ids)
    alone = functools.partial(attention, segments=segments, **{**how, "implementation": "reference"})
    expected = jax.jit(jax.grad(functools.partial(loss, alone), (0, 1, 2), has_aux=True))(q, k, v, weights)
    mesh = make_mesh(*sizes[:3], context=sizes[3])
    with jax.set_mesh(mesh):

        def run(batch, ids):
            batch = {name: x.reshape(*x.shape[:2], -1) for name, x in batch.items()}  # balance takes any width
            batch = {**batch, "inputs": ids}
            placed = parallel.balance(batch, dict.fromkeys(batch, TOKENS))
            q, k, v, w = (placed[n].reshape(*ids.shape, -1, 8) for n in "qkvw")
            s = Segments(placed["inputs"], placed["inputs"]) if segmented else None
            function = functools.partial(parallel.sharded_attention, segments=s, **how)
            found = jax.grad(functools.partial(loss, function), (0, 1, 2), has_aux=True)(q, k, v, w)
            return jax.tree.map(parallel.restore, found)

        found = jax.jit(run)({"q": q, "k": k, "v": v, "w": weights}, arrays(heads, key_heads)[4])
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
        assert np.abs(y).max() > 1e-2


@pytest.mark.parametrize(
    ("sizes", "heads", "key_heads", "segmented"),
    [
        ((1, 2, 1, 4), 4, 1, True),  # one head per device, one key head in all
        ((1, 1, 2, 4), 16, 8, False),  # two query heads per device, which share a key head
        ((2, 1, 2, 2), 12, 4, True),  # three heads per device, which share a key head
        ((1, 1, 1, 8), 24, 4, False),  # half of the six query heads of a key head
        ((2, 1, 1, 4), 24, 4, True),
        ((1, 1, 1, 8), 32, 32, False),
    ],
)
def test_a_kernel_over_the_context_axis_is_attention(monkeypatch, sizes, heads, key_heads, segmented):
    """Heads are exchanged for length, so that the kernel (replaced by the reference here) gets the whole sequence."""
    lengths = []

    def run(name, q, k, v, ids, window, *, name_kept, documents):
        lengths.append(q.shape[1])
        segments = None if ids is None else Segments(ids, ids)
        return attention(q, k, v, implementation="reference", segments=segments, window=window)

    monkeypatch.setattr(kernels, "refusal", lambda name, case: None if isinstance(case.offset, int) else "no")
    monkeypatch.setattr(kernels, "run", run)
    test_attention_on_a_mesh_is_attention(sizes, heads, key_heads, segmented, None, "cudnn")
    assert set(lengths) == {32}


def test_heads_that_do_not_divide_take_blockwise_or_are_refused(monkeypatch):
    monkeypatch.setattr(kernels, "choice", lambda case: "cudnn" if isinstance(case.offset, int) else None)
    test_attention_on_a_mesh_is_attention((1, 1, 1, 8), 4, 2, True, None, "auto")
    q, k, v, _, _ = arrays(4, 2)
    with (
        jax.set_mesh(make_mesh(1, 1, 1, context=8)),
        raises(errors.ConfigError, field="model.attention", value="cudnn"),
    ):
        parallel.sharded_attention(q, k, v, implementation="cudnn")


@pytest.mark.parametrize(
    ("platform", "fields", "sizes", "documents", "expected"),
    [
        ("cpu", {}, (1, 1), True, "auto"),
        ("gpu", {"attention": "blockwise"}, (1, 1), False, "blockwise"),
        ("gpu", {}, (2, 2), False, "auto (cudnn)"),
        ("gpu", {}, (1, 1), True, "auto (triton)"),
        ("gpu", {"head_dim": 96}, (1, 1), True,
         "auto (without a kernel: cudnn has no document mask (data.mask_documents); "
         "triton supports head sizes that are powers of two, not 96)"),
        ("tpu", {}, (2, 8), False, "auto (without a kernel: splash supports only a whole sequence, not a cache or a "
         "context axis that does not divide the heads)"),
    ],
)  # fmt: skip
def test_what_auto_chooses_is_said(platform, fields, sizes, documents, expected, monkeypatch):
    monkeypatch.setattr(kernels, "platform", lambda: platform)
    model = config.Model(num_attention_heads=8, num_key_value_heads=4, head_dim=64, dtype="bfloat16")
    model = dataclasses.replace(model, **fields)
    sizes = dict(zip(("tensor", "context"), sizes, strict=True))
    assert parallel.chosen(model, 512, sizes, documents=documents) == expected


def test_what_does_not_divide_is_refused():
    q, k, v, _, _ = arrays(4, 2, length=20)
    with jax.set_mesh(make_mesh(1, 1, 1, context=8)), pytest.raises(ValueError, match=r"20 tokens .* = 16"):
        parallel.sharded_attention(q, k, v, implementation="blockwise")


LONG = config.Config(
    model=config.Model(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=1, attention="blockwise", attention_block=32,
    ),
    tokenizer=config.Tokenizer(k=3),
    data=config.Data(context_length=2048),
    train=config.Train(batch_size=1),
)  # fmt: skip


@pytest.mark.slow
def test_a_devices_memory_falls_with_the_number_of_devices():
    sizes = {}
    for n in (1, 8):
        mesh = make_mesh(1, 1, 1, jax.devices()[:n], context=n)
        row = jax.ShapeDtypeStruct((1, 2048), np.int32, sharding=batch_sharding(mesh))
        batch = {"inputs": row, "targets": row}
        step = make_train_step(LONG, mesh, CrossEntropy(KmerTokenizer(3)), dict.fromkeys(batch, TOKENS))
        with jax.set_mesh(mesh):
            program = step.lower(abstract_state(LONG, mesh), {}, batch).compile()
        sizes[n] = program.memory_analysis().temp_size_in_bytes / 2**20
    print("temporary memory of a step over the context axis, MiB per device:", sizes)
    assert sizes[8] < 0.2 * sizes[1]


def test_a_devices_work_falls_with_the_number_of_devices():
    block, length = 32, 2048
    blocks = length // block

    def trips(n, device):
        """Key blocks that a device visits for its two chunks of queries, by the bounds of the loop."""
        rows, total = length // (2 * n), 0
        for chunk in (device, 2 * n - 1 - device):
            for i in range(rows // block):
                first, last = _bounds(i, chunk * rows, None, block, block, blocks)
                total += int(last) - int(first)
        return total

    alone = trips(1, 0)
    assert alone == blocks * (blocks + 1) // 2
    for n in (2, 4, 8):
        each = {trips(n, device) for device in range(n)}
        assert len(each) == 1  # balanced
        assert each.pop() * n == alone  # and no work is repeated


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_meshes(folder, dataset, meshes, devices, num_processes):
    names = [",".join(map(str, m)) for m in meshes]
    joined = [f"127.0.0.1:{free_port()}", num_processes]
    running = [
        tiny.command(dataset, devices, *joined, i, *names, module="tests.processes", cwd=folder)
        for i in range(num_processes)
    ]
    found = []
    for process in running:
        status, out, err = tiny.finished(process, seconds=1500)  # each mesh takes about ten
        assert status == 0, err[-3000:]
        found.append(json.loads(out.splitlines()[-1]))
    return [{m: one[name] for m, name in zip(meshes, names, strict=True)} for one in found]


@pytest.mark.parametrize(
    "meshes", [pytest.param(SOME, marks=pytest.mark.slow), pytest.param(MESHES, marks=pytest.mark.soak)]
)
def test_two_processes_are_one_process_is_one_device(tmp_path, meshes):
    dataset = tiny.genomes(tmp_path / "genomes")
    expected, rows = processes.losses(dataset, (1, 1, 1, 1))
    assert rows == list(range(8))
    assert abs(expected[0] - expected[-1]) > 1e-3  # the loss changes
    eight = {mesh: processes.losses(dataset, mesh) for mesh in meshes}  # on the eight devices of this process
    two = run_meshes(tmp_path, dataset, meshes, devices=4, num_processes=2)
    for mesh in meshes:
        np.testing.assert_allclose(eight[mesh][0], expected, atol=1e-5, rtol=0, err_msg=str(mesh))
        for process in two:
            np.testing.assert_allclose(process[mesh][0], expected, atol=1e-5, rtol=0, err_msg=str(mesh))
        read = [process[mesh][1] for process in two]
        assert sorted(set(read[0] + read[1])) == list(range(8))
        if mesh[0] * mesh[1] > 1:  # rows are divided between the processes
            assert len(read[0]) == len(read[1]) == 4
    print({mesh: max(abs(a - b) for a, b in zip(two[0][mesh][0], expected, strict=True)) for mesh in meshes})


def test_batches_lie_on_the_context_axis():
    mesh = make_mesh(1, 2, 1, context=4)
    assert batch_sharding(mesh).shard_shape((8, 32)) == (4, 8)
    assert batch_sharding(mesh, ROWS).shard_shape((8,)) == (4,)
    assert batch_sharding(mesh, ("batch", None)).shard_shape((8, 32)) == (4, 32)
    for axes in (("length",), ("batch", None, "length"), ()):
        with pytest.raises(ValueError, match="must be batch"):
            batch_sharding(mesh, axes)
