"""The command line shared by all programs: a parser for experiment files, overrides and run folders; exit statuses.

    --config=FILE.py            an experiment file with get_config()
    --config.section.field=X    overrides one field, before or after --config
    --workdir=DIR               the run's folder, which names the run; default runs/<config name>
    --checkpoint=DIR            (evaluate, sample, convert) a run's or Hugging Face folder that provides the config

Exit status: 0 success; 1 unusable input; 2 invalid command line or configuration; 3 the output is complete, but some of
its rows are flagged (sample, score, embed) or tasks failed (evaluate); 75 stuck; 130 interrupted; 143 stopped by
SIGTERM. `train` saves its state before 130 and 143.
"""

import argparse
import atexit
import contextlib
import dataclasses
import importlib.util
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from data_pipeline import cli
from data_pipeline.errors import DataError
from data_pipeline.ranges import Whole
from gener_jax import config as configuration
from gener_jax.config import Config
from gener_jax.inference.options import WEIGHTS
from gener_jax.runtime.errors import ConfigError

FLAGGED = 3  # the exit status of a command whose output has rows with a flag


def load_experiment(path: str) -> dict:
    """The fields returned by an experiment file's `get_config()`; the config's name is that of the file."""
    file = Path(path)
    if not file.is_file():
        raise ConfigError("no such file", "--config", path)
    if file.suffix != ".py":
        raise ConfigError("not a Python file; give one such as experiments/quickstart.py", "--config", path)
    spec = importlib.util.spec_from_file_location(f"experiment_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        values = module.get_config().to_dict()
    except Exception as error:  # the author of the file can fix any error in it, so one line is enough
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)] or [getattr(error, "lineno", None)]
        at = f"line {lines[-1]}: " if lines[-1] else ""
        text = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"{at}{type(error).__name__}: {text}", "--config", path) from error
    return {**values, "name": file.stem}


def split_overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Separates `--config.x.y=value` and `--config.x.y value`, returned as a dict, from all other arguments."""
    rest, overrides, it = [], {}, iter(argv)
    for argument in it:
        if argument.startswith("--config."):
            name, equals, value = argument.removeprefix("--config.").partition("=")
            if not equals:
                value = next(it, None)
                if value is None or value.startswith("--"):
                    raise ConfigError(f"--config.{name} needs a value")
            overrides[name] = value
        else:
            rest.append(argument)
    return rest, overrides


def step(text: str) -> int | str:
    """Parses the value of --step: the step of a checkpoint, or "best"."""
    try:
        return text if text == "best" else Whole()(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; or best") from None


class Command:
    """A program's parser, which also resolves its configuration and the run's folder."""

    def __init__(self, description: str, *, checkpoint: bool, several: bool = False, weights: bool = True):
        """`description`: as of `cli.Parser`. `checkpoint`: whether the program reads a model that exists; `several`:
        whether it reads more than one, so that --checkpoint and --step are lists; `weights`: whether it takes the type
        that they are held in.
        """
        self.parser = cli.Parser(description)
        group = self.parser.add_argument_group("model" if checkpoint else "run")
        add = group.add_argument
        if checkpoint:
            action, more, each = (
                ("append", "; may be repeated", "; or one for each run") if several else ("store", "", "")
            )
            text = f"a run, a Hugging Face folder or cached name, or tiny{more}"
            add("--checkpoint", metavar="DIR", action=action, help=text)
            text = f"of a run: a step, or best{each} [newest; fine-tuned: best]"
            add("--step", metavar="N", type=step, action=action, help=text)
            if weights:
                text = "type that they are held in [the model's dtype]"
                add("--weights", choices=WEIGHTS, help=text)
            add("--download", action="store_true", help="download a Hugging Face name that is not in the cache")
            texts = (
                "or a run's experiment file, with --workdir DIR", "set field X.Y; --print_config lists all fields",
                argparse.SUPPRESS, argparse.SUPPRESS,  # both are named above, so that the help stays short
            )  # fmt: skip
        else:
            texts = (
                "an experiment file, such as experiments/quickstart.py", "set field X.Y of the configuration",
                "the folder of the run [runs/<config name>]", "list all fields and their values as JSON, and exit",
            )  # fmt: skip
        add("--config", metavar="FILE.py", help=texts[0])
        add("--config.X.Y", metavar="VALUE", help=texts[1])
        add("--workdir", type=Path, metavar="DIR", help=texts[2])
        add("--print_config", action="store_true", help=texts[3])
        cli.add_json(group)

    def parse(self, argv: Sequence[str] | None) -> tuple[argparse.Namespace, Config, Path]:
        """Returns the arguments, the resolved configuration and the run's folder."""
        args = self.arguments(argv)
        return args, *self.resolve(args, getattr(args, "checkpoint", None))

    def arguments(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The arguments alone; overrides of the configuration are `overrides`, text by the name of the field."""
        rest, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
        args = self.parser.parse_args(rest)
        args.overrides = overrides
        return args

    def resolve(self, args: argparse.Namespace, checkpoint: str | None) -> tuple[Config, Path]:
        """The configuration and the folder of a checkpoint, or those that --config and --workdir name."""
        overrides = args.overrides
        if checkpoint is not None:
            if args.config or args.workdir:
                raise ConfigError("cannot be combined with --config or --workdir", "--checkpoint", checkpoint)
            from gener_jax.storage import pretrained

            folder = pretrained.find(checkpoint, download=args.download)
            values = dataclasses.asdict(pretrained.read_config(folder))
        elif args.config:
            values = load_experiment(args.config)
            if args.workdir is not None:  # so that reports name the run, not the file that many runs share
                values["name"] = args.workdir.absolute().name or values["name"]
            folder = args.workdir or Path("runs") / overrides.get("name", values["name"])
        else:
            has_checkpoint = hasattr(args, "checkpoint")
            raise ConfigError("give --config=FILE.py" + (" or --checkpoint=DIR" if has_checkpoint else ""))
        if getattr(args, "weights", None) is not None and "model.dtype" in overrides:
            raise ConfigError("decides model.dtype too; leave --config.model.dtype out", "--weights", args.weights)
        config = configuration.override(values, overrides)
        if args.print_config:
            print(configuration.dumps(config), end="")
            sys.exit(0)
        return config, folder


def run(main: Callable[[], int | None]) -> None:
    """Runs a program, which may return its exit status.

    An error that the user can fix becomes one line on standard error and an exit status.
    """
    import absl.logging

    from gener_jax.runtime.errors import CheckpointError, Terminated, TrainingError
    from gener_jax.runtime.progress import log

    cli.escape_unencodable()
    # orbax and its event loop log at length about errors that are reported in one line here.
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _unless_loop_closed
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    warnings.showwarning = lambda message, *_: log(f"warning: {message}")
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        if status := main():
            sys.exit(status)
        sys.stdout.flush()
    except BrokenPipeError:
        cli.nobody_reads()
    except ConfigError as error:
        _fail(2, error)
    except Terminated as stopped:
        _end(128 + stopped.signal, f"stopped {stopped}")
    except (DataError, CheckpointError, TrainingError, OSError) as error:  # any other ValueError is a bug
        _fail(1, error)
    except MemoryError as error:
        _fail(1, f"out of memory: {error}" if str(error) else "out of memory")
    except RuntimeError as error:  # jax's, which is not imported to print --help
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _fail(1, f"out of device memory: {str(error).splitlines()[0]}")
    except KeyboardInterrupt as interrupt:
        status, what = (143, "stopped by SIGTERM") if isinstance(interrupt, _Sigterm) else (130, "interrupted")
        atexit.register(_leave, status)
        _end(status, f"{what}; {interrupt}" if str(interrupt) else what)
    finally:
        signal.signal(signal.SIGTERM, before)


class _Sigterm(KeyboardInterrupt):
    """SIGTERM ends a command as Ctrl-C does, so that a job that is terminated says what it keeps."""


def _terminate(*_) -> None:
    raise _Sigterm


def _leave(status: int) -> None:
    """Ends the process at once: a program that is still running on a device can crash the interpreter's own end."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _unless_loop_closed(unraisable) -> None:
    """Reports errors in destructors as Python does, except those of writes that failed on a full disk."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _fail(status: int, error) -> None:
    _end(status, f"error: {error}")


def _end(status: int, line: str) -> None:
    sys.unraisablehook = lambda _: None  # threads that still write a checkpoint would repeat the error at length
    print(line, file=sys.stderr)
    sys.exit(status)
