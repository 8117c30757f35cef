"""Sequence recovery during training against greedy generation from the same prompts."""

import jax
import numpy as np
import pytest

from gener_jax.inference.lm import LM
from gener_jax.model.sharding import make_mesh
from gener_jax.runtime.errors import ConfigError
from gener_jax.tasks.base import NotRun
from gener_jax.tasks.catalogue import of_config
from gener_jax.tasks.recovery import Recovery
from tests import tiny
from tests.conftest import random_params
from tests.raised import raises

ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny.genomes(tmp_path_factory.mktemp("data") / "genomes")


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), pytest.param((2, 1, 2, 2), marks=pytest.mark.slow)], ids=["one device", "a mesh"]
)
def test_recovery_is_that_of_greedy_generation(dataset, sizes):
    config = tiny.config(
        dataset,
        eval__recovery_genes="12",
        eval__tasks="recovery",
        eval__batch_size="8",
        data__context_length="128",
        model__initializer_range="0.3",
    )
    tokenizer = config.tokenizer.make()
    params = random_params(config.model)
    mesh = make_mesh(*sizes[:3], jax.devices()[: int(np.prod(sizes))], context=sizes[3])
    [task] = of_config(config, config.eval.tasks)
    placed = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    result, rows = task.prepare(config, mesh)(placed), task.prompts(tokenizer)
    found = result.metrics
    assert result.counts["genes"] == len(rows) == 12
    lm = LM(config.spec, params, make_mesh(1, 1, 1, ONE))
    prompts = [tokenizer.decode(prompt[1:]) for prompt, _ in rows]
    truths = [tokenizer.decode(truth) for _, truth in rows]
    assert len({len(p) for p in prompts}) > 1
    assert {len(t) for t in truths} == {30}
    generated = lm.generate(prompts, 30, temperature=0)
    fractions = [np.mean([a == b for a, b in zip(t, g, strict=True)]) for t, g in zip(truths, generated, strict=True)]
    assert found["accuracy"] == pytest.approx(np.mean(fractions))
    assert 0.1 < found["accuracy"] < 0.5  # an untrained model: about a quarter


def test_k_must_divide_the_thirty_bases(dataset):
    config = tiny.config(dataset, tokenizer__k="4")
    with raises(NotRun, field="eval.tasks", value="recovery"):
        Recovery(config).prepare(config, make_mesh(1, 1, 1, ONE))


def test_unknown_tasks_are_one_line(dataset):
    with raises(ConfigError, field="eval.tasks", value="recovry"):
        of_config(tiny.config(dataset), ["held_out", "recovry"])
