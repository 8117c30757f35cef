"""Fine-tunes a pre-trained model, and the same shape with random weights, on all tasks; compares both with baselines.

    gener-jax benchmark finetune --data ../shared/data --base runs/base_s \\
        --output matrix

A cell is one fine-tuning run: a task, outer fold, arm, weights, seed and rate.
The same command resumes; a cell that is done is not run again. The rate is
chosen on validation rows with one seed. Frozen cells and baselines come first.
At the end OUTPUT/matrix.md has the tables, and cells.jsonl a line per cell.
"""

from pathlib import Path

from data_pipeline import cli
from data_pipeline.files import write_text
from data_pipeline.ranges import Whole
from gener_jax.benchmarks import finetune_estimate
from gener_jax.benchmarks.finetune_cells import ARMS
from gener_jax.benchmarks.finetune_matrix import Matrix
from gener_jax.benchmarks.finetune_tasks import TASKS
from gener_jax.cli.calling import run


def main(arguments=None) -> None:
    """The command."""
    parse = cli.Parser(__doc__)
    option = parse.add_argument
    option("--data", type=Path, required=True, metavar="DIR", help="the test data, with downstream/ and genomes/")
    option("--base", required=True, metavar="RUN", help="the pre-trained model: a run, a folder, or tiny")
    option("--dataset", metavar="DIR", help="what the model was trained on, to count test rows in it [the run's]")
    option("--output", type=Path, required=True, metavar="DIR", help="folder of the matrix")
    names = [task.name for task in TASKS]
    option("--tasks", nargs="*", default=names, choices=names, metavar="TASK", help="only these [all]")
    option("--arms", nargs="*", default=list(ARMS), choices=ARMS, metavar="ARM", help=" | ".join(ARMS) + " [all]")
    option("--rows", type=Whole(20), default=2000, metavar="N", help="training rows at most")
    option("--epochs", type=Whole(1), default=6, metavar="N", help="passes over them")
    option("--seeds", type=Whole(1), default=3, metavar="N", help="runs of each arm at the chosen rate")
    option("--plan", action="store_true", help="list what is left, with an estimate of its time, and end")
    option("--report", action="store_true", help="write the tables of what is done, and end")
    a = parse.parse_args(arguments)
    from gener_jax.benchmarks import finetune_report

    tasks, arms = [task for task in TASKS if task.name in a.tasks], {name: ARMS[name] for name in a.arms}
    matrix = Matrix(a.data, a.base, a.output, tasks, arms, a.rows, a.epochs, a.seeds, a.dataset)
    if a.plan:
        print(*finetune_estimate.left(matrix), sep="\n")
        return
    if not a.report:
        matrix.fill()
    text = finetune_report.report(matrix)
    write_text(a.output / "matrix.md", text)
    print(text)


if __name__ == "__main__":
    run(main)
