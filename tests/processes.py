"""Trains a few steps on several meshes, as one of N processes: -m tests.processes DATASET DEVICES HOST:PORT N I MESH…

Prints a JSON object: for each mesh (data,fsdp,tensor,context) the losses, and the rows that this process read.
"""

import dataclasses
import json
import sys

import jax
import numpy as np

MODEL = {
    "model.num_attention_heads": "8", "model.num_key_value_heads": "4", "model.num_hidden_layers": "2",
    "model.hidden_size": "32", "data.mask_documents": "true", "tokenizer.k": "2",
}  # fmt: skip


def losses(dataset, mesh, steps=4):
    """The losses of a few steps of the tiny model on a mesh, and the rows of each batch that this process reads."""
    from data_pipeline.dataset.reader import RegionSource
    from gener_jax.data import loader
    from gener_jax.model.sharding import ROWS, batch_sharding, mesh_of
    from gener_jax.runtime.transfer import fetch
    from gener_jax.training import objectives
    from gener_jax.training.step import abstract_state, make_train_step
    from tests import tiny
    from tests.conftest import random_params

    axes = dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor", "mesh.context"), map(str, mesh), strict=True))
    config = tiny.config(dataset, **MODEL, **axes)
    tokenizer = config.tokenizer.make()
    devices = jax.devices()[: mesh[0] * mesh[1] * mesh[2] * mesh[3]]
    mesh = mesh_of(config, devices)
    stream = loader.TokenStream(RegionSource(dataset, "train"), tokenizer, config.data, 0)
    out = []
    shapes = abstract_state(config, mesh)
    drawn = dataclasses.replace(
        jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes),
        params=jax.device_get(random_params(config.model)), rate_scale=np.float32(1),
    )  # fmt: skip
    state = jax.tree.map(lambda x, shape: loader.to_devices({"x": x}, shape.sharding)["x"], drawn, shapes)
    with jax.set_mesh(mesh):
        step = make_train_step(config, mesh, objectives.of_config(config, tokenizer)(0), stream.axes)
        for batch in loader.device_batches(stream, config.train.batch_size, 0, steps, mesh):
            state, metrics = step(state, {}, batch)
            out.append(float(fetch(metrics["loss"])))
    return out, loader.own_rows(batch_sharding(mesh, ROWS), config.train.batch_size)


def main():
    import tests.conftest  # noqa: F401 (first, because it requests eight devices)

    dataset, devices, address, number, index, *meshes = sys.argv[1:]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", int(devices))
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.distributed.initialize(address, int(number), int(index))
    assert jax.local_device_count() == int(devices)
    print(json.dumps({mesh: losses(dataset, [int(x) for x in mesh.split(",")]) for mesh in meshes}))


if __name__ == "__main__":
    main()
