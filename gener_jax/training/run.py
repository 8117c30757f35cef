"""A training run, from a checked configuration to its last results: what `gener_jax.train` runs."""

import contextlib
import dataclasses
import platform
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import flax
import jax

from data_pipeline import cli, lock
from data_pipeline.dataset.inputs import discover
from data_pipeline.dataset.reader import RegionSource, read_info
from data_pipeline.errors import DataError, DatasetError
from data_pipeline.files import finite
from data_pipeline.sequence.tokenizer import Tokenizer
from gener_jax import __version__
from gener_jax.assets import EXAMPLE_GENOME
from gener_jax.config import Config
from gener_jax.data import dataset
from gener_jax.data.loader import DataSource, TokenStream
from gener_jax.inference.lm import LM
from gener_jax.inference.prompt import Prompt
from gener_jax.model import decoder, flops, memory, parallel
from gener_jax.model.sharding import mesh_of, remedy
from gener_jax.model.trainable import everything, merge
from gener_jax.runtime import distributed, errors
from gener_jax.runtime.errors import CheckpointError, ConfigError
from gener_jax.runtime.progress import log
from gener_jax.storage import provenance, run_folder
from gener_jax.storage.compilation import keep_programs
from gener_jax.storage.results import FILE, Evaluation, Model, Results, read
from gener_jax.tasks.base import Task
from gener_jax.tasks.catalogue import of_config
from gener_jax.tasks.plots import draw_all
from gener_jax.tasks.samples import Samples
from gener_jax.training import checkpoint, objectives
from gener_jax.training.faults import Termination, Watchdog
from gener_jax.training.hooks import Hook, Moment
from gener_jax.training.loop import Run, loop
from gener_jax.training.metrics import Log, logged, read_log
from gener_jax.training.start import start
from gener_jax.training.step import abstract_state

MY_GENOME = Path("experiments/my_genome.py")  # for people who trained on the example
_READING = ("data.", "tokenizer.")  # fields that determine what is read from a dataset


def check(
    config: Config, trains=everything, init=None, flags: str = "--config=FILE.py", *, source: DataSource | None = None
) -> jax.sharding.Mesh:
    """Checks data, mesh and memory before anything is made; returns the mesh.

    `flags`: those of the command line that give the configuration, for the remedies. With a `source` there need be no
    dataset.

    Raises:
      ConfigError, DataError: with a line for each problem.
    """
    problems = []
    if source is None and not dataset.exists(config.data.path) and not config.data.build_from:
        problems.append(dataset.missing(config.data.path))
    try:
        mesh = mesh_of(config)
        abstract_state(config, mesh, trains, init)
    except ConfigError as error:
        problems.append(error)
    except ValueError as error:  # the mesh does not divide the model
        problems.append(ConfigError(f"{error}; {remedy(config, mesh.size)}"))
    if config.train.check_memory and (line := memory.training_shortage(_read(config, source), trains, init, flags)):
        problems.append(DataError(line))
    if len(problems) > 1:
        raise DataError("\nerror: ".join(map(str, problems)))
    if problems:
        raise problems[0]
    return mesh


def _read(config: Config, source: DataSource | None) -> Config:
    """A configuration whose batches are as large as those that the decoder reads, each chunk a row."""
    rows = config.train.batch_size * getattr(source, "chunks", 1)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=rows))


def prepare_data(config: Config, tokenizer: Tokenizer) -> None:
    """Builds the dataset of `data.build_from` if it does not exist; else checks that it was built from the same files.

    Raises:
      DataError: if the existing dataset was made from other files, or in another way.
    """
    if dataset.exists(config.data.path) and config.data.build_from:
        check_built(config)
    dataset.build_missing(config.data, tokenizer)


def check_built(config: Config) -> None:
    """Raises DataError if the dataset at `data.path` is not the one that `data.build_from` would build."""
    info, wanted = read_info(config.data.path), config.data
    # By file name alone: the dataset may have been made elsewhere. A folder is replaced by its files.
    found = sorted(file["file"] for file in info["inputs"])
    files = sorted(Path(file).name for file in wanted.build_from)
    if any(Path(file).is_dir() for file in wanted.build_from):
        files = sorted(file.name for source in discover(wanted.build_from, annotated=True)[0] for file in source.files)
    differences = [
        f"{name} {was}, not {value}"
        for name, was, value in (
            ("data.storage", info["storage"], wanted.storage),
            ("data.validation_fraction", info["parameters"]["validation_fraction"], wanted.validation_fraction),
            ("data.build_from", found, files),
        )
        if was != value
    ]
    if differences:
        raise DatasetError(
            f"was built with {'; '.join(differences)}", file=wanted.path, remedy="use another --config.data.path"
        )


def open_stream(config: Config, tokenizer: Tokenizer) -> TokenStream:
    """The training split of the dataset, which is built if it does not exist.

    Raises:
      DataError: if it cannot be built or read, or another process would have to build it.
    """
    if jax.process_count() > 1 and not dataset.exists(config.data.path):
        raise DatasetError(
            "does not exist",
            file=config.data.path,
            remedy="build it with one process before this run with several",
        )
    distributed.run_on_primary(lambda: prepare_data(config, tokenizer))
    distributed.check_shared(Path(config.data.path))
    stream = TokenStream(RegionSource(config.data.path, "train"), tokenizer, config.data, config.train.seed)
    if config.data.repeat_weight != 1 and not stream.has_lower_case():
        log(
            f"warning: no lower case in the sampled bases of {config.data.path}, so data.repeat_weight "
            f"{config.data.repeat_weight} has no effect on them"
        )
    return stream


def prepare(
    config: Config,
    workdir: Path,
    *,
    source: DataSource | None = None,
    objective=None,
    trains=everything,
    init=None,
    tasks: Sequence[Task] = (),
    hooks: Sequence[Hook] = (),
) -> Run:
    """Data, mesh and state of a run: a new state, or that of the newest checkpoint in `workdir` that can be restored.

    Args:
      config: of the run.
      workdir: its folder.
      source: what it reads; default: the dataset of `data.path`, as a stream of tokens. With one there need be none.
      objective: of the step that follows this many completed ones, as a function; default: `objectives.of_config`.
      trains: which parameters are trained, as in `step.abstract_state`; the others are those of `train.init_from`.
      init: which parameters there are, as in `step.abstract_state`.
      tasks: what measures the model in addition to `eval.tasks`; `checkpoint.best` may be the metric of one of them.
      hooks: what is done between steps, in this order.

    Raises:
      ConfigError, DataError, CheckpointError: one line each, before anything is trained.
    """
    tokenizer = config.tokenizer.make()
    with errors.user_errors("sample.prompts"):  # now, not after training
        for prompt in config.sample.prompts:
            Prompt.parse(prompt)
    mesh = check(config, trains, init, source=source)
    # The config in a run's folder must work from any directory.
    data = dataclasses.replace(config.data, path=str(Path(config.data.path).absolute()))
    config = dataclasses.replace(config, data=data)
    stream = source or open_stream(config, tokenizer)
    tasks = [*of_config(config, config.eval.tasks), *tasks]
    for kind, named in (("eval.tasks", tasks), ("hooks", hooks)):
        names = [each.name for each in named]
        if len(set(names)) < len(names):
            raise ConfigError("must have different names", kind, names)
    directed = [task for task in tasks if task.metrics[task.metric].higher_is_better is not None]
    choices, chosen = {f"{task.name}.{task.metric}": task for task in directed}, config.checkpoint.best
    if chosen is not None and chosen not in choices:
        raise ConfigError(f"must be one of {', '.join(choices)}: the metrics of the tasks", "checkpoint.best", chosen)
    best = choices.get(chosen)

    # 1. The config of the folder must equal this one. 2. The newest checkpoint that can be restored gives parameters,
    # optimizer and step. 3. Its loader digest must equal that of the stream. 4. The log is truncated to its step.
    checkpoint.check_folder(workdir, config)
    keep_programs(config, workdir)
    checkpoints = checkpoint.Checkpoints(workdir, config.checkpoint.keep, best)
    step, state, frozen, loader_state = start(config, mesh, checkpoints, workdir, trains, init)
    now, position, caught_up = Moment(step, state), 0, True
    if loader_state is not None:
        check_data(config, stream, loader_state, workdir)
        position, caught_up, now.stop = (loader_state[name] for name in ("position", "caught_up", "stop"))
        now.metrics = loader_state["metrics"] or logged(workdir / "log.jsonl", step)
        for hook in hooks:
            hook.state = loader_state["hooks"].get(hook.name, hook.state)
    stored = None if loader_state is None else stored_results(config, workdir, tasks, step, loader_state)
    run_log = None
    if stored is None:  # else nothing in the folder changes
        if loader_state is not None:
            distributed.log_primary(f"resuming {workdir} at step {step}")
        data = getattr(stream, "provenance", {"dataset": stream.dataset, "special_tokens": None})

        def describe():
            run_folder.describe(workdir, config)
            provenance.begin(workdir, data, config.train.init_from, resumes=loader_state is not None)

        distributed.run_on_primary(describe)
        distributed.check_shared(workdir)
        run_log = Log(workdir, step, config, evaluated=caught_up)
    objective = objective or objectives.of_config(config, tokenizer)
    return Run(
        config, workdir, tokenizer, mesh, stream, objective, tasks, best, hooks, checkpoints, now, position, caught_up,
        frozen, trains, init, run_log, stored,
    )  # fmt: skip


def stored_results(config: Config, workdir: Path, tasks, step: int, loader_state: dict) -> Results | None:
    """The results of a run that has ended at this step; None if it has not, or if the file is not of this end.

    It is not if a start since, which may have changed how to evaluate, wrote none.
    """
    ended = loader_state["caught_up"] and (loader_state["stop"] or step == config.train.num_steps)
    found, path, described = None, workdir / FILE, workdir / "config.json"
    if ended and path.exists() and described.exists() and path.stat().st_mtime >= described.stat().st_mtime:
        try:
            old, new = [(x.eval, x.sample, x.data.path, x.finetune) for x in (run_folder.read(workdir), config)]
            found = read(workdir) if old == new else None
        except CheckpointError as error:  # of another version, or damaged: it is written again
            log(f"warning: {error}")
    steps = {step}
    if config.finetune.problem is not None and (best := run_folder.best(workdir, config.checkpoint.best)):
        steps.add(best[0])  # the results are those of the best checkpoint
    done = {each.task for each in found.evaluations if each.model.step in steps} if found else set()
    return found if distributed.all_agree(found is not None and {task.name for task in tasks} <= done) else None


def check_data(config: Config, stream: DataSource, loader_state: dict, workdir: Path) -> None:
    """Raises DataError if the checkpoint of a run was trained on other data, unless that was allowed."""
    changes, field = config.train.allow_changes, "data.path"
    path = config.data.path
    if config.finetune.problem is not None:
        field, path = "finetune.train", ", ".join(config.finetune.train)
    for name, digest in (("dataset", stream.dataset), ("digest", stream.digest)):
        allowed = field in changes or (name == "digest" and any(a.startswith(_READING) for a in changes))
        if loader_state[name] != digest and not allowed:
            before = run_folder.read(workdir).data.path if (workdir / "config.json").exists() else config.data.path
            moved = f"data.path: {before} → {config.data.path}: " if before != config.data.path else ""
            raise DatasetError(
                f"is not that of the data with which this run started, {loader_state[name][:12]}",
                file=path, field=name, value=digest[:12],
                remedy=f"{moved}use another --workdir, or allow it with {checkpoint.allowing(config, field)}",
            )  # fmt: skip


def screen(run: Run) -> str:
    """A summary of the run before its first step, one screen of text."""
    config, stream, mesh = run.config, run.stream, run.mesh
    m, t, stats = config.model, config.train, stream.stats
    read, have = _read(config, stream), memory.available()
    need = memory.training_needs(read, mesh.size, trains=run.trains, init=run.init)
    per_token = flops.training(config, run.trains, run.init)
    epochs = t.num_steps * run.tokens_per_step / max(stats["tokens"], 1)
    fns = config.objective.fns_from_step
    objective = "cross-entropy" + ("" if fns is None else f", FNS from step {fns:,}")
    if config.finetune.problem is not None:
        objective = f"{config.finetune.problem}, {config.finetune.method}"
    trained, frozen = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (run.now.state.params, run.frozen))
    parameters = f"{trained + frozen:,} parameters" + (f", {trained:,} of them trained" if frozen else "")
    attends = m.attention  # rows of fine-tuning have lengths and padding of their own
    if config.finetune.problem is None:
        attends = parallel.chosen(m, config.data.context_length, mesh.shape, documents=config.data.mask_documents)
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    hosts = f" on {jax.process_count()} hosts" if jax.process_count() > 1 else ""
    rows = (
        ("model", f"{parameters}: {m.num_hidden_layers} layers of {m.hidden_size}, "
                  f"{m.num_attention_heads} heads of {m.head_dim} on {m.num_key_value_heads} of keys; {m.dtype}, "
                  f"remat {m.remat}, attention {attends}"),
        ("mesh", f"{axes}: {mesh.size} {jax.devices()[0].device_kind}{hosts}"),
        ("memory", f"about {sum(need.values()):.2g} of {have:.1f} GiB per device: "
                   + ", ".join(f"{name} {gib:.2g}" for name, gib in need.items() if gib)),
        ("step", f"{read.train.batch_size} × {config.data.context_length:,} = {run.tokens_per_step:,} tokens"
                 + (f" in {t.accumulate} microbatches" if t.accumulate > 1 else "")
                 + f"; {per_token * run.tokens_per_step / 1e12:,.3g} TFLOP, {per_token / 1e9:,.3g} GFLOP per token"),
        ("training", f"{t.num_steps:,} steps, {epochs:.1f} epochs; {objective}; {config.optimizer.schedule}"),
        ("data", ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in stats.items())
                 + f" ({run.tokenizer.name}) per epoch"),
        ("tasks", f"{', '.join(task.name for task in run.tasks)}, every {config.eval.every_steps:,} steps"),
        ("versions", f"gener_jax {__version__}, jax {jax.__version__}, flax {flax.__version__}, "
                     f"Python {platform.python_version()}"),
    )  # fmt: skip
    return "\n".join([config.name, *(f"  {name:9} {text}" for name, text in rows)])


def train(config: Config, workdir: Path, *, report=None, **parts) -> Results:
    """Trains to `train.num_steps`, resuming the run in `workdir` if there is one; returns what `results.json` holds.

    `report`: called at the end instead of `finish`, with the same arguments. `parts` are the keyword arguments of
    `prepare`: a data source, an objective, what is trained, tasks, hooks.

    Raises:
      ConfigError, DataError, CheckpointError: one line each; also if another process is training there.
      Terminated: after SIGTERM or Ctrl-C, once the state is saved.
    """
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        distributed.run_on_primary(lambda: stack.enter_context(lock.held(workdir / "lock")))
        run = prepare(config, workdir, **parts)
        if run.stored is not None:
            return again(run)
        distributed.log_primary(screen(run))
        # Only around the loop: a signal loses nothing before and after it, and building a dataset may take hours.
        with Watchdog(config.train.watchdog_minutes) as watchdog, Termination(workdir) as termination:
            now = loop(run, termination, watchdog)
        params, now.state = merge(now.state.params, run.frozen), None  # frees the optimizer's state
        return (report or finish)(run, params, now, began)


def again(run: Run) -> Results:
    """Prints the stored results of a run that has ended."""
    run.checkpoints.close()
    distributed.log_primary(f"finished at step {run.now.step}; results in {run.workdir / FILE}")
    cli.escape_unencodable()
    if distributed.is_primary():
        print(run.stored.table())
    return run.stored


def finish(run: Run, params, now: Moment, began: float) -> Results:
    """Prints the last results, samples and what to try next, and writes results and plots into the run's folder.

    With several processes the primary one prints and writes, and none draws samples; `gener_jax.sample` does, on one
    host.
    """
    config, workdir = run.config, run.workdir
    found = [(task, now.results[task.name]) for task in run.tasks]
    if jax.process_count() == 1:
        samples = Samples(config)
        lm = LM(config.spec, params, run.mesh, now.step, provenance.read(workdir))
        found.append((samples, samples(lm)))
    model = Model(config.name, decoder.num_parameters(config.model), str(workdir), now.step)
    evaluations = tuple(Evaluation.of(task, result, model) for task, result in found)
    logged = ("loss", "bits_per_base", "skipped", "tokens_per_s", "bases_per_s")
    facts = {name: now.metrics.get(name) for name in logged}
    facts |= {"peak_memory_gib": memory.peak(), "seconds": round(time.perf_counter() - began, 1)}
    results = Results(evaluations, finite(facts))
    cli.escape_unencodable()  # no encoding costs the report
    if distributed.is_primary():
        results.write(workdir)
        draw_all(results, list(read_log(workdir / "log.jsonl")), workdir)
        best = run_folder.best(workdir, config.checkpoint.best)
        better = best is not None and best[0] != now.step
        lines = [f"best: step {best[0]}, {best[1]:.4f} (--step best)"] if better else []
        print("\n".join(["", results.table(), *lines, *(result.text for _, result in found if result.text)]))
        print(f"Results in {workdir / FILE}, plots in {workdir / 'plots'}\nTry next")
        print("\n".join(f"  {line}" for line in commands(config, workdir, "best" if better else None)))
    return results


def commands(config: Config, workdir: Path, step: str | None = None) -> list[str]:
    """What to try next with a run, or a step of it: commands that work with it."""
    checkpoint = f"--checkpoint {shlex.quote(str(workdir))}" + (f" --step {step}" if step else "")
    prompt = shlex.quote(config.sample.prompts[0])
    options = f"--num_bases {config.sample.num_bases} --num_samples 1 --temperature {config.sample.temperature:g}"
    found = [f"gener-jax sample {checkpoint} --prompt {prompt} {options}", f"gener-jax evaluate {checkpoint}"]
    if config.data.build_from == (str(EXAMPLE_GENOME),) and MY_GENOME.exists():
        found.append(f"gener-jax train --config={MY_GENOME} --config.data.build_from=YOUR.gbff.gz")
    return found
