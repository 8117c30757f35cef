"""Evaluates a model on held-out regions.

    gener-jax evaluate --checkpoint runs/quickstart --step best
    gener-jax evaluate --checkpoint tiny --output measured

Prints bits per base, loss and perplexity, by kind and taxon, beside Markov models on the same bases, and the results of
other tasks. The dataset is the run's. For tiny it is built from the chromosome that ships with the package, whose
validation split tiny was not trained on; for another published model give --config.data.path=DIR.
"""

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline import cli
from gener_jax import assets
from gener_jax.cli import command
from gener_jax.config import Config
from gener_jax.runtime.progress import log
from gener_jax.storage.files import from_here, refuse_existing
from gener_jax.storage.results import FILE, Evaluation, Model, Results

if TYPE_CHECKING:
    from gener_jax.inference.lm import LM
    from gener_jax.tasks.base import Task


def overlap_warning(config: Config, folder: Path, step: int | None) -> str | None:
    """A line if the model may have been trained on what it is evaluated on, else None."""
    from data_pipeline.dataset.reader import read_info
    from gener_jax.storage import pretrained, provenance, run_folder

    path, split, known = config.data.path, config.eval.split, provenance.read(folder)
    state = None if step is None else run_folder.read_loader_state(folder, step)
    datasets = [data["dataset"] for data in known.data if "dataset" in data] if known else []
    datasets += [state["dataset"]] if state else []
    is_default = folder == assets.TINY and config.data == pretrained.read_config(folder).data
    if is_default or read_info(path)["digest"] in datasets:
        return None if split != "train" else f"{config.name} was trained on the train split"
    if datasets:
        return f"{path} is not the dataset of {config.name}, which may have been trained on these regions"
    data = "it does not record its training data" if known is None else f"its training data are {known.records}"
    return f"{config.name} may have been trained on these regions: {data}"


def evaluate(config: Config, lm: "LM", chosen: "list[Task]", model: Model) -> tuple[Evaluation, ...]:
    """What each task finds."""
    from gener_jax.tasks.base import measure

    last = time.perf_counter()

    def progress(name: str, done: int, total: int) -> None:
        nonlocal last
        if time.perf_counter() - last > 10:
            last = time.perf_counter()
            log(f"{name}: {done:,} of {total:,}")

    found = []
    for task in chosen:
        result = measure(task.prepare(config.spec, lm.mesh), lm.params, functools.partial(progress, task.name))
        found.append(Evaluation.of(task, result, model))
    return tuple(found)


def main(argv=None) -> None:
    """The command."""
    program = command.Command(__doc__, checkpoint=True)
    add = program.parser.add_argument
    add("--tasks", metavar="NAME,…", help="held_out, recovery or both [the run's eval.tasks]")
    add("--output", type=Path, metavar="DIR", help=f"a folder for {FILE} and a plot by group [nothing is written]")
    add("--overwrite", action="store_true", help=f"replace {FILE} and plots of that folder")
    args, config, folder = program.parse(argv)
    if args.output is not None:  # now, not after the evaluation
        refuse_existing(args.output / FILE, args.overwrite)

    from gener_jax import tasks
    from gener_jax.data import dataset
    from gener_jax.inference.lm import from_spec
    from gener_jax.model import decoder
    from gener_jax.model.sharding import mesh_of
    from gener_jax.storage import pretrained
    from gener_jax.tasks.plots import draw_all
    from gener_jax.training.metrics import logged

    dataset.build_missing(config.data, config.tokenizer.make())
    chosen = tasks.of_config(config, args.tasks.split(",") if args.tasks else config.eval.tasks)
    mesh = None
    try:
        mesh = mesh_of(config)
        pretrained.abstract_params(config.model, mesh)  # fails if the mesh does not divide the model
    except ValueError as error:  # the run was made on a larger machine
        mesh = None
        log(f"{error}; evaluating without this mesh")
    lm = from_spec(config.spec, folder, step=args.step, mesh=mesh)
    if warning := overlap_warning(config, folder, lm.step):
        log(f"warning: {warning}")
    checkpoint = args.checkpoint or str(folder)
    model = Model(config.name, decoder.num_parameters(config.model), checkpoint, lm.step)
    at = "" if lm.step is None else f", step {lm.step}"
    log(f"evaluating {checkpoint}{at}, on the {config.eval.split} split of {from_here(config.data.path)}")
    training = {n: x for n, x in logged(folder / "log.jsonl", lm.step).items() if n in ("loss", "bits_per_base")}
    results = Results(evaluate(config, lm, chosen, model), training or None)
    if args.output is not None:
        results.write(args.output)
        draw_all(results, [], args.output)
        log(f"results in {args.output / FILE}, plots in {args.output / 'plots'}")
    with cli.text(args.json):
        print(results.table())
    cli.finish(results.json(), args.json, listed=False)


if __name__ == "__main__":
    command.run(main)
