"""Full fine-tuning equals a plain loop over `transformers`, and LoRA PEFT's, in float32: outputs and losses."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from gener_jax.config import Config
from gener_jax.data.loader import DataSource
from gener_jax.finetuning import labels, method
from gener_jax.finetuning.objectives import Labels
from gener_jax.finetuning.plan import base_of
from gener_jax.model import decoder, sharding
from gener_jax.model.sharding import make_mesh
from gener_jax.model.trainable import merge, split
from gener_jax.storage.huggingface import config as published_config
from gener_jax.storage.huggingface import weights
from gener_jax.training.objectives import Apply
from gener_jax.training.step import init_state, make_train_step
from tests import labelled_rows

for package in ("torch", "transformers", "peft"):
    pytest.importorskip(package, reason="needs pip install -e '.[parity]'")

from tests import torch_finetune as peer  # noqa: E402 (it imports them)

STEPS = 20
# Of losses and outputs, relative: a float32 rounding, 2⁻²⁴, for each of about 20 operations in a row in each of two
# layers, and again in each of 20 steps.
TOLERANCE = 2 * 20 * STEPS * 2.0**-24
RECIPE = {"beta2": 0.995, "weight_decay": 0.1, "clip_norm": 1.0, "rate": 1e-3}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model whose context, 15 tokens, is shorter than some of the rows."""
    return labelled_rows.base(
        tmp_path_factory.mktemp("base") / "model", model__max_position_embeddings="15", data__context_length="15"
    )


@dataclasses.dataclass(frozen=True)
class Run:
    """A run before its first step, on one device."""

    config: Config
    source: DataSource
    objective: Labels
    trains: Callable
    init: Callable  # of random weights, the adapters' B but for zeros
    mesh: Mesh

    @property
    def params(self):
        return nn.unbox(self.init(None))


def prepared(base, folder, *, problem="single_label", equal=False, weight_decay=0.1, clip_norm=1.0, **finetune) -> Run:
    pairs = labelled_rows.rows(96, 0, problem, least=39 if equal else 30, most=39 if equal else 52)
    labelled_rows.write(folder / "rows" / "train.tsv", pairs)
    labelled_rows.write(folder / "rows" / "dev.tsv", pairs[:32])
    config = labelled_rows.config(
        base, folder / "rows", finetune__problem=problem, finetune__pooling="last", finetune__head_bias="False",
        finetune__long="truncate", train__batch_size="8", mesh__fsdp="1", optimizer__peak_learning_rate="1e-3",
        optimizer__warmup_steps="0", optimizer__final_learning_rate_ratio="1", optimizer__beta2="0.995",
        optimizer__weight_decay=str(weight_decay), optimizer__clip_norm=str(clip_norm),
        optimizer__grad_norm_spike_factor="0",
        **{f"finetune__{name}": str(value) for name, value in finetune.items()},
    )  # fmt: skip
    plan, random = labels.plan(config, base_of(config), folder / "run"), np.random.default_rng(0)

    def draw(path, box):
        values = random.normal(size=box.value.shape).astype(np.float32)
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        if path.endswith("/scale"):
            return box.replace_boxed(1 + 0.1 * values)
        return box.replace_boxed((0 if path.endswith("/b") else 0.3) * values)

    boxed = decoder.abstract(plan.config.model, plan.init)
    drawn = jax.tree_util.tree_map_with_path(draw, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    trains = method.trains(config.finetune.method)
    return Run(plan.config, plan.source, plan.objective, trains, lambda key: drawn, mesh)


def batches_of(run: Run, number=STEPS):
    size = run.config.train.batch_size
    batches = run.source.batches(0, size, range(size))
    return [jax.tree.map(np.array, next(batches)) for _ in range(number)]


def train(run: Run, batches):
    """Our loss of each batch, the outputs of the head for the first batch before and after, and the parameters."""
    parts = {"trains": run.trains, "init": run.init}
    step = make_train_step(run.config, run.mesh, run.objective, run.source.axes, **parts)
    outputs = jax.jit(functools.partial(run.objective.outputs, Apply(decoder.Decoder(run.config.model))))
    frozen, losses = split(run.params, run.trains)[1], []
    with sharding.on(run.mesh):
        state = init_state(run.config, run.mesh, **parts)
        before = np.array(outputs(merge(state.params, frozen), batches[0]))
        for batch in batches:
            state, metrics = step(state, frozen, batch)
            losses.append(float(metrics["loss"]))
        after = np.array(outputs(merge(state.params, frozen), batches[0]))
    return losses, before, after, jax.device_get(state.params)


def peers(run: Run, folder):
    """The same model in PyTorch, on one thread: more only wait for each other in a model this small."""
    peer.torch.set_num_threads(1)
    params = jax.tree.map(jax.numpy.asarray, run.params)
    kernel = np.array(params["head"]["kernel"])
    tree = {name: x for name, x in params.items() if name not in ("head", "adapters")}
    (folder / "published").mkdir()
    spec = dataclasses.replace(run.config, prompt_convention="v2")
    (folder / "published" / "config.json").write_text(published_config.write(spec, "float32"))
    weights.write(folder / "published", decoder.unstack(tree), "float32")
    f = run.config.finetune
    model = peer.classifier(folder / "published", f.problem, kernel, pool_at_end=f.pool_at_end)
    if f.method == "lora":
        adapters = jax.device_get(flatten_dict(decoder.unstack(params["adapters"]), sep="/"))
        model = peer.with_lora(model, adapters, rank=f.rank, alpha=f.alpha, targets=f.targets)
    return model


def close(ours, theirs, tolerance=TOLERANCE):
    return np.abs(np.array(ours) - theirs).max() <= tolerance * np.abs(theirs).max()


LORA = {"method": "lora", "rank": 4, "alpha": 4, "targets": "q,v,o,down"}
CASES = {
    "classes": {},
    "classes-equal": {"equal": True},
    "values": {"problem": "regression"},
    "values-equal": {"problem": "regression", "equal": True},
    "lora": LORA,
    "lora-values-equal": {**LORA, "problem": "regression", "equal": True},
    "untrimmed": {"untrimmed": True},
    "at-end": {"pool_at_end": True},
    "published": {"untrimmed": True, "pool_at_end": True, "problem": "regression"},
}


PLAIN = ("lora", "published")  # classes and values, adapters and all parameters


@pytest.mark.parametrize(
    "case", [name if name in PLAIN else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_outputs_and_losses_equal_those_of_pytorch(case, base, tmp_path):
    run = prepared(base, tmp_path, **CASES[case])
    batches = batches_of(run)
    lengths = np.concatenate([batch["lengths"] for batch in batches])
    assert (len(set(lengths.tolist())) == 1) == ("equal" in case)
    model = peers(run, tmp_path)
    expected = peer.logits(model, batches[0])
    losses, before, after, _ = train(run, batches)
    assert close(before, expected)
    theirs = peer.losses(model, batches, **RECIPE)
    assert close(losses, theirs)
    moved = peer.logits(model, batches[0])
    assert close(after, moved)
    assert not close(moved, expected, 1000 * TOLERANCE)  # there was something to agree on
    if run.config.finetune.untrimmed:
        sequences = run.source.train.sequences
        chosen = [sequences[run.source.place(number)[0]] for number in range(len(lengths))]
        rows = peer.tokenized(chosen, max_tokens=15, k=3)
        assert [len(row) for row in rows] == lengths.tolist()
        ids = np.concatenate([batch["inputs"] for batch in batches])
        assert all(row == list(own[: len(row)]) for row, own in zip(rows, ids, strict=True))
        assert any(0 in row for row in rows)
        assert any(row[-1] != 1 for row in rows)


def test_adapters_with_a_scale_begin_as_pefts(base, tmp_path):
    """With alpha / rank = 4 as a factor of our A, both matrices get the same first updates, and losses are equal.

    But PEFT's A is multiplied by 4 after its update, so that from the third loss on PEFT has moved further. Without
    clipping, since the norm of A's gradient differs.
    """
    recipe = {"weight_decay": 0.0, "clip_norm": 1e9}
    run = prepared(base, tmp_path, **recipe, **LORA | {"alpha": 16, "targets": "q,v"})
    batches = batches_of(run, 3)
    model = peers(run, tmp_path)
    theirs = [x for name, x in sorted(model.named_parameters()) if "layers.0.self_attn.q_proj.lora" in name]
    start = [x.detach().numpy().copy() for x in theirs]
    expected = peer.losses(model, batches[:2], **RECIPE | recipe)
    moved = [(x.detach().numpy() - x0).T for x, x0 in zip(theirs, start, strict=True)]
    before = run.params["adapters"]["layers"]["q"]
    losses, *_, after = train(run, batches[:2])
    assert close(losses, expected)
    for name, change in zip("ab", moved, strict=True):
        ours = after["adapters"]["layers"]["q"][name][0] - before[name][0]
        assert np.abs(change).max() > 5e-4
        difference = ours.reshape(change.shape) - change
        # Adam's epsilon of 1e-8 is not small beside the smallest gradients.
        assert np.linalg.norm(difference) < 1e-3 * np.linalg.norm(change)
