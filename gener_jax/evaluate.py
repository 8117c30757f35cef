"""Evaluates models on held-out regions and on the benchmarks of the field.

    gener-jax evaluate --checkpoint runs/quickstart --step best
    gener-jax evaluate --checkpoint runs/a --checkpoint tiny --tasks quick \\
        --data DIR --output measured

Prints the results of the tasks beside their baselines. With --output, tables, plots and predictions are written, and
the same command resumes after a stop. A task whose data are missing is "not run"; if one fails, the others run, and the
exit status is 3. The dataset of held_out and recovery is the run's; for tiny it is built from the chromosome that ships
with the package; for another published model give --config.data.path=DIR.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline import cli, lock
from data_pipeline.errors import DataError, counted
from data_pipeline.ranges import Whole
from gener_jax import assets
from gener_jax import config as configuration
from gener_jax.cli import command
from gener_jax.config import Config
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log
from gener_jax.storage.files import from_here, refuse_existing
from gener_jax.storage.results import FILE, Model

if TYPE_CHECKING:
    from gener_jax.inference.lm import LM
    from gener_jax.tasks.base import Entry
    from gener_jax.tasks.suite import Candidate

MARKDOWN, HTML = "table.md", "index.html"
ADAPT = ("frozen", "lora", "full")  # how a model is fitted to labelled sequences: a probe of it, or fine-tuning


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


def main(argv=None) -> int | None:
    """The command."""
    program = command.Command(__doc__, checkpoint=True, several=True)
    add = program.parser.add_argument
    add("--tasks", metavar="NAME,…", help="tasks or groups, quick or all; NAME:N: N rows of it [the run's eval.tasks]")
    add("--list", action="store_true", help="list the tasks, and whether their data are there")
    add("--data", type=Path, metavar="DIR", help="folder of the field's data [eval.data]")
    add("--rows", type=Whole(1), metavar="N", help="rows, regions or genes of each task, at most [all; quick: few]")
    add("--seeds", type=Whole(1), default=1, metavar="N", help="repeat with N seeds, to show how much they matter [1]")
    add("--adapt", choices=ADAPT, default=ADAPT[0], help="how labelled sequences are learned [frozen: a probe]")
    add("--no_random", action="store_true", help="no random weights as a baseline of tasks on data of the field")
    add("--output", type=Path, metavar="DIR", help=f"a folder for {FILE}, {MARKDOWN}, {HTML}, plots and predictions")
    add("--overwrite", action="store_true", help="measure all again; replace results of another command there")
    args = program.arguments(argv)
    if args.data is not None:
        args.overrides["eval.data"] = str(args.data)
    if args.list:
        return list_tasks(args)
    resolved = [(name, *program.resolve(args, name)) for name in args.checkpoint or [None]]
    if args.output is not None and not (args.output / "cells").is_dir():  # now, not after the evaluation
        refuse_existing(args.output / FILE, args.overwrite)

    from gener_jax.storage.compilation import keep_programs
    from gener_jax.tasks import catalogue, page, suite
    from gener_jax.training.metrics import logged

    words = args.tasks.split(",") if args.tasks else resolved[0][1].eval.tasks
    chosen = catalogue.chosen(words, "--tasks" if args.tasks else "eval.tasks", args.rows)
    chosen = [(adapted(entry, args.adapt), rows) for entry, rows in chosen]
    change = fine_tuning(args.adapt, args.output, args.weights)
    candidates = candidates_of(resolved, args.step or [], args.weights)
    keep_programs(*resolved[0][1:])
    real = list(candidates)
    if not args.no_random:
        for each in {each.shape: each for each in reversed(real)}.values():  # after the first of its shape
            candidates.insert(candidates.index(each) + 1, random_candidate(each))
    with contextlib.nullcontext() if args.output is None else lock.held(args.output / "evaluate.lock"):
        options = {"seeds": args.seeds, "again": args.overwrite, "before": Regions(real), "change": change}
        cells = suite.run(candidates, chosen, args.output, **options)
        facts = {}
        if len(real) == 1:
            facts = logged(resolved[0][2] / "log.jsonl", real[0].model.step)
        training = {name: x for name, x in facts.items() if name in ("loss", "bits_per_base")}
        results = suite.results_of(cells, training or None)
        if args.output is not None:
            results.write(args.output)
            page.write(results, cells, args.output)
            log(f"results in {args.output / FILE}, {MARKDOWN} and {HTML}")
    if not results.evaluations:
        raise next(cell.error for cell in cells if cell.error is not None)
    with cli.text(args.json):
        whole = args.output is None or len(results.evaluations) == 1
        print(results.table() if whole else page.text(page.overview(results)))
        absent = len(page.absent(results).rows)
        if absent and not whole:
            print(f"{counted(absent, 'task')} without a result: see {args.output / MARKDOWN}")
    cli.finish(results.json(), args.json, listed=False)
    failed = [cell for cell in cells if cell.skipped is not None and cell.skipped.status == suite.FAILED]
    return command.FLAGGED if failed else None  # also if it is one of random weights


def adapted(entry: "Entry", method: str) -> "Entry":
    """A task on labelled sequences under the name of its method; any other task as it is."""
    from gener_jax.tasks import understanding

    fits = method != ADAPT[0] and entry in understanding.ENTRIES
    return dataclasses.replace(entry, name=f"{entry.name}_{method}") if fits else entry


def fine_tuning(method: str, output: Path | None, weights: str | None = None):
    """What fine-tunes models in tasks on labelled sequences, in runs below the output; see `suite.run`.

    Raises:
      ConfigError: if there is no output, or the weights' type is chosen, which is for inference.
    """
    if method == ADAPT[0]:
        return lambda task, candidate: task
    if output is None:
        raise ConfigError("fine-tunes models, whose runs need a folder; give --output", "--adapt", method)
    if weights is not None:
        raise ConfigError("is for inference; leave it out, or give --adapt frozen", "--weights", weights)
    from gener_jax.finetuning.adapting import FineTuning
    from gener_jax.tasks.suite import file_name
    from gener_jax.tasks.understanding import Understanding

    def change(task, candidate):
        if not isinstance(task, Understanding):
            return task
        return task.fine_tuned(method, FineTuning(method), output / "runs" / file_name(candidate.model.name))

    return change


def list_tasks(args) -> None:
    """Prints the tasks: name, group, rows of `quick`, and what is missing to run them."""
    from gener_jax.tasks import catalogue
    from gener_jax.tasks.page import Table, text

    config, rows = configuration.override({}, args.overrides), []
    for entry in catalogue.ENTRIES:
        state = "needs the dataset of a run"
        if not entry.regions:
            try:
                entry.make(config)
                state = "ready"
            except (ConfigError, DataError, OSError) as error:  # `NotRun`, or files that cannot be read
                state = " ".join(str(error).split())
        rows.append((entry.name, entry.group, "" if entry.quick is None else f"{entry.quick:,}", state))
    with cli.text(args.json):
        print(text(Table(("task", "group", "quick", "data"), tuple(rows))))
    keys = ("task", "group", "quick", "data")
    cli.finish({"tasks": [dict(zip(keys, row, strict=True)) for row in rows]}, args.json, listed=False)


Named = tuple[str | None, Config, Path]  # a checkpoint as it was named, its configuration and folder


def candidates_of(
    resolved: Sequence[Named], steps: Sequence[int | str], weights: str | None = None
) -> "list[Candidate]":
    """The models of checkpoints, with different names.

    Args:
      resolved: the checkpoints.
      steps: of runs: none, one for all of them, or one for each in their order.
      weights: see `lm.load`.

    Raises:
      ConfigError: of --step, if their number is another one.
      CheckpointError: if a folder has no such checkpoint.
    """
    from gener_jax.model import decoder
    from gener_jax.storage import pretrained
    from gener_jax.storage.resumable import of_file
    from gener_jax.tasks.suite import Candidate, file_name

    runs = [folder for _, _, folder in resolved if not pretrained.is_published(folder)] if len(resolved) > 1 else [None]
    if len(steps) not in (0, 1, len(runs)) or (steps and not runs):
        problem = f"must be given once, or once for each run; the checkpoints are of {counted(len(runs), 'run')}"
        raise ConfigError(problem, "--step", len(steps))
    given = iter(steps if len(steps) == len(runs) else [*steps, None][:1] * len(runs))
    found, names = [], set()
    for checkpoint, config, folder in resolved:
        step = next(given) if len(resolved) == 1 or not pretrained.is_published(folder) else None
        step, files = pretrained.contents(folder, step)
        name = file_name(config.name)
        if name in names:
            name += "" if step is None else f"-step{step}"
        number = 1
        while name in names:
            name, number = f"{name.removesuffix(f'-{number}')}-{number + 1}", number + 1
        names.add(name)
        data = config.eval.data and str(Path(config.eval.data).absolute())
        config = dataclasses.replace(config, name=name, eval=dataclasses.replace(config.eval, data=data))
        spec = json.loads(configuration.dumps(config.spec))
        model = Model(name, decoder.num_parameters(config.model), checkpoint or str(folder), step)
        made_of = {"checkpoint": str(folder), "step": step, "files": [of_file(x) for x in files], "spec": spec}
        made_of |= {} if weights is None else {"weights": weights}
        shape = json.dumps({**spec, "name": ""})
        make = functools.partial(load, config, folder, step, weights=weights)
        found.append(Candidate(model, config, made_of, make, shape))
    return found


def load(config: Config, folder: Path | None, step: int | None, seed: int, weights: str | None = None) -> "LM":
    """The model of a folder, or random weights of a seed, on the mesh of its configuration if this machine has it."""
    from gener_jax.inference.lm import from_spec, random_weights
    from gener_jax.model.sharding import mesh_of
    from gener_jax.storage import pretrained

    mesh = None
    try:
        mesh = mesh_of(config)
        pretrained.abstract_params(config.model, mesh)  # fails if the mesh does not divide the model
    except ValueError as error:  # the run was made on a larger machine
        mesh = None
        log(f"{error}; evaluating without this mesh")
    if folder is None:
        return random_weights(config.spec, mesh, seed=seed)
    return from_spec(config.spec, folder, step=step, mesh=mesh, weights=weights)


def random_candidate(of: "Candidate") -> "Candidate":
    """A model of the same shape with random weights."""
    from gener_jax.tasks.suite import RANDOM, Candidate

    model = Model(f"{RANDOM}-{hashlib.sha256(of.shape.encode()).hexdigest()[:8]}", of.model.parameters, RANDOM, None)
    make = functools.partial(load, of.config, None, None)
    return Candidate(model, of.config, {"random": of.shape}, make, of.shape, random=True)


class Regions:
    """What precedes a task on regions: the dataset is built where it can be, and a model that knows it is reported."""

    def __init__(self, candidates: "Sequence[Candidate]"):
        self.new = {each.model.name for each in candidates}

    def __call__(self, candidate: "Candidate", entry: "Entry") -> None:
        """Raises DatasetError if there is no dataset."""
        from gener_jax.data import dataset

        if not entry.regions:
            return
        config, model = candidate.config, candidate.model
        dataset.build_missing(config.data, config.tokenizer.make())
        if model.name in self.new:
            self.new.remove(model.name)
            folder = Path(candidate.made_of["checkpoint"])
            if warning := overlap_warning(config, folder, model.step):
                log(f"warning: {warning}")
            at = "" if model.step is None else f", step {model.step}"
            where = f"on the {config.eval.split} split of {from_here(config.data.path)}"
            log(f"evaluating {model.checkpoint}{at}, {where}")


if __name__ == "__main__":
    command.run(main)
