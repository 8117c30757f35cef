"""How long the cells of a fine-tuning matrix will take that are left."""

from gener_jax.benchmarks.finetune_cells import Cell
from gener_jax.benchmarks.finetune_matrix import Matrix

GFLOPS = 30  # of two cores: what estimates assume until cells of an arm are done
START = 8.0  # seconds of a cell besides its tokens


def seconds(matrix: Matrix, cell: Cell, parameters: int) -> float:
    """Seconds of a cell, from the operations on its tokens with so many `parameters` in products with each of them."""
    arm, facts = matrix.arms[cell.arm], matrix.rows[cell.task, cell.fold].facts
    total = sum(facts["rows"].values()) or 1
    tokens = {name: facts["tokens"] * count / total for name, count in facts["rows"].items()}
    if arm.finetune["method"] == "frozen":
        passes = sum(tokens.values()) if cell.rate == arm.rates[0] and cell.seed == 0 else 0
    else:
        passes = matrix.epochs * (3 * tokens.get("train", 0) + tokens.get("validation", 0)) + tokens.get("test", 0)
    return START + 2 * parameters * passes / (GFLOPS * 1e9)


def left(matrix: Matrix) -> list[str]:
    """A line for each arm, task and weights that has cells left: their number and time; and a line for all.

    Times are corrected by cells of the arm that are done.
    """
    from gener_jax.model import flops
    from gener_jax.storage import pretrained

    parameters = flops.matrix_parameters(pretrained.read_spec(pretrained.find(matrix.base)).model)
    taken, expected = {}, {}
    for cell in matrix.cells():
        if cell.key in matrix.done:
            taken[cell.arm] = taken.get(cell.arm, 0) + matrix.done[cell.key]["seconds"]
            expected[cell.arm] = expected.get(cell.arm, 0) + seconds(matrix, cell, parameters)
    found: dict[tuple, list[float]] = {}
    for task, arm, weights in matrix.pairs():
        factor = taken[arm] / expected[arm] if arm in taken else 1
        first = matrix.first(task, arm, weights)
        known = all(cell.key in matrix.done for cell in first)
        further = matrix.chosen(task, arm, first if known else first[-1:])
        cells = [x for x in dict.fromkeys([*first, *further]) if x.key not in matrix.done]
        found[arm, task.name, weights] = [factor * seconds(matrix, x, parameters) for x in cells]
    lines = [f"{' '.join(place)}: {len(x)} cells, {sum(x) / 60:.1f} min" for place, x in found.items() if x]
    return [*lines, f"all: {sum(map(len, found.values()))} cells, {sum(map(sum, found.values())) / 60:.0f} min"]
