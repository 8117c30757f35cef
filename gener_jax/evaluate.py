"""Evaluates a run on held-out regions: python -m gener_jax.evaluate --checkpoint RUN [--config.eval.split=train]

Prints loss, perplexity and bits per base, by kind and taxon, and Markov baselines on the same bases. The last line on
standard output is one JSON object.
"""

import json
import time

from data_pipeline.dataset.reader import read_info
from gener_jax.cli import command
from gener_jax.inference.lm import from_spec
from gener_jax.model.sharding import mesh_of
from gener_jax.runtime.progress import log
from gener_jax.storage import pretrained, run_folder
from gener_jax.tasks import report
from gener_jax.training.metrics import logged


def main(argv=None) -> None:
    """The command."""
    program = command.Command(__doc__, checkpoint=True)
    args, config, folder = program.parse(argv)
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
    marks = []  # (seconds, tokens done) per batch; the first includes compilation

    def progress(done: int, total: int) -> None:
        if len(marks) > 1 and time.perf_counter() - marks[-1][0] > 10:
            log(f"{done:,} of {total:,} tokens")
        marks.append((time.perf_counter(), done))

    result = report.evaluate(config, lm.params, lm.tokenizer, lm.mesh, progress)
    (began, first), (ended, last) = marks[:1] + marks[-1:] if marks else [(0.0, 0)] * 2
    facts = {
        "train_loss": logged(folder / "log.jsonl", step).get("loss"),
        "step": step,
        "tokens_per_s": (last - first) / (ended - began) if len(marks) > 1 else None,
        "checkpoint": str(folder),
        "split": config.eval.split,
    }
    print(report.as_text(config, result))
    print(json.dumps({**result, **facts}))


if __name__ == "__main__":
    command.run(main)
