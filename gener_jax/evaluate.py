"""Evaluates a model on held-out regions.

    gener-jax evaluate --checkpoint runs/quickstart --step best
    gener-jax evaluate --checkpoint runs/quickstart --config.eval.split=test

Prints loss, perplexity and bits per base, by kind and taxon, beside those of
Markov models on the same bases, and the results of other tasks.
"""

import functools
import json
import time

from data_pipeline.dataset.reader import read_info
from gener_jax.cli import command
from gener_jax.runtime.progress import log


def main(argv=None) -> None:
    """The command."""
    program = command.Command(__doc__, checkpoint=True)
    program.parser.add_argument(
        "--tasks", metavar="NAME,…", help="what to measure: held_out, recovery, or both [the run's eval.tasks]"
    )
    args, config, folder = program.parse(argv)

    from gener_jax import tasks
    from gener_jax.inference.lm import from_spec
    from gener_jax.model.sharding import mesh_of
    from gener_jax.storage import pretrained, run_folder
    from gener_jax.training.metrics import logged

    chosen = tasks.of_config(config, args.tasks.split(",") if args.tasks else config.eval.tasks)
    mesh = None
    try:
        mesh = mesh_of(config)
        pretrained.abstract_params(config.model, mesh)  # fails if the mesh does not divide the model
    except ValueError as error:  # the run was made on a larger machine
        mesh = None
        log(f"{error}; evaluating without this mesh")
    lm = from_spec(config.spec, folder, step=args.step, mesh=mesh)
    step = lm.step
    trained_on = None if step is None else run_folder.read_loader_state(folder, step)
    if trained_on is None:
        log(f"warning: {folder} does not name its training data: it may have been trained on these regions")
    elif read_info(config.data.path)["digest"] != trained_on["dataset"]:
        log(f"warning: {config.data.path} is not the dataset of this run, which may have been trained on these regions")
    log(f"evaluating step {step} of {folder} on {config.data.path}, {config.eval.split}")
    marks = {task.name: [] for task in chosen}  # seconds and units done, per batch; the first includes compilation

    def progress(name: str, done: int, total: int) -> None:
        if marks[name] and time.perf_counter() - marks[name][-1][0] > 10:
            log(f"{name}: {done:,} of {total:,}")
        marks[name].append((time.perf_counter(), done))

    results = {
        task.name: task.prepare(config.spec, lm.mesh)(lm.params, functools.partial(progress, task.name))
        for task in chosen
    }
    own = marks.get("held_out", [])
    facts = {
        "train_loss": logged(folder / "log.jsonl", step).get("loss"),
        "step": step,
        "tokens_per_s": (own[-1][1] - own[0][1]) / (own[-1][0] - own[0][0]) if len(own) > 1 else None,
        "checkpoint": str(folder),
        "split": config.eval.split,
    }
    print("\n".join(result.text for result in results.values()))
    print(json.dumps({**tasks.as_json(results), **facts}))


if __name__ == "__main__":
    command.run(main)
