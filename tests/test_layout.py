"""Imports point down: the floors of each package, and who may import whom."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. A name is a folder, or a file at the package's root; what is on one line stands side by side and
# does not import one another. The files of a folder may, but never in a circle.
FLOORS = {
    "data_pipeline": (
        ("errors",),
        ("ranges",),
        ("files", "lock"),
        ("sequence",),
        ("formats",),
        ("regions",),
        ("splitting",),
        ("dataset",),
        ("cli",),
        ("build", "inspect", "train_bpe"),
        ("__main__",),
    ),
    "gener_jax": (
        ("assets",),
        ("runtime",),
        ("config", "plotting"),
        ("model",),
        ("data", "labelled", "statistics"),
        ("storage",),
        ("inference",),
        ("baselines",),
        ("tasks",),
        ("training",),
        ("finetuning",),
        ("cli",),
        (
            "convert",
            "doctor",
            "embed",
            "evaluate",
            "finetune",
            "plan",
            "predict",
            "sample",
            "score",
            "train",
            "benchmarks",
        ),
        ("__main__",),
    ),
}
COMMANDS = (*FLOORS["gener_jax"][-2][:-1], *FLOORS["data_pipeline"][-2])
BELOW = {"gener_jax": ("data_pipeline",), "data_pipeline": ()}  # packages that one may import


@functools.cache  # the planted imports leave all files but one as they are
def parsed(text: str) -> ast.Module:
    """The tree of a file."""
    return ast.parse(text)


def sources() -> dict[str, str]:
    """Module → its text, of both packages."""
    found = {}
    for package in FLOORS:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def imports(module: str, text: str, modules: dict[str, str]) -> set[str]:
    """The modules of both packages that one imports, anywhere in it."""
    found = set()
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            each = [f"{node.module}.{alias.name}" for alias in node.names]
            named = [name if name in modules else node.module for name in each]
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{module}: a relative import; write it out")
        else:
            continue
        found.update(name for name in named if name.split(".")[0] in FLOORS)
    return found


def is_command(module: str, modules: dict[str, str]) -> bool:
    """What one can type: a verb at a package's root, or a benchmark with a `main`."""
    _, *rest = module.split(".")
    if rest[:1] == ["benchmarks"] and rest[1:] != ["__main__"]:
        return any(isinstance(n, ast.FunctionDef) and n.name == "main" for n in parsed(modules[module]).body)
    return len(rest) == 1 and rest[0] in COMMANDS


def faults(modules: dict[str, str]) -> list[str]:
    """What is wrong with the imports of these modules, a line each."""
    height = {
        f"{package}.{name}": i for package, floors in FLOORS.items() for i, floor in enumerate(floors) for name in floor
    }
    graph, found = {}, []
    for module, text in modules.items():
        package, *rest = module.split(".")
        if not rest:  # the package itself: its `load` opens a model when it is called
            continue
        place = ".".join([package, rest[0]])
        if place not in height:
            found.append(f"{module}: stands on no floor; give it one in {Path(__file__).name}")
            continue
        graph[module] = imports(module, text, modules) - {module}
        for other in sorted(graph[module]):
            their_package, *theirs = other.split(".")
            if is_command(module, modules) and is_command(other, modules):
                found.append(f"{module}: a command that imports the command {other}")
            elif their_package != package:
                if their_package not in BELOW[package]:
                    found.append(f"{module}: {package} imports {other}")
            elif theirs:
                there = ".".join([package, theirs[0]])
                if there not in height:
                    found.append(f"{module}: imports {other}, which is not there, or on no floor")
                elif place != there and height[there] == height[place]:
                    found.append(f"{module}: imports {other}, which stands beside it")
                elif height[there] > height[place]:
                    found.append(f"{module}: imports {other}, which stands above it")
    return found + circles(graph)


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Files that import one another in a circle, each circle once."""
    found, done = [], set()

    def visit(module, path):
        if module in path:
            circle = path[path.index(module) :]
            found.append(f"{min(circle)}: in a circle of imports: {' → '.join([*circle, module])}")
        elif module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def test_imports_point_down():
    assert faults(sources()) == []


@pytest.mark.parametrize(
    ("module", "planted", "expected"),
    [
        ("gener_jax.runtime.errors", "from gener_jax.config import Config", "which stands above it"),
        ("gener_jax.model.losses", "def f():\n    import gener_jax.training.step", "which stands above it"),
        ("gener_jax.tasks.held_out", "from gener_jax.training import metrics", "which stands above it"),
        ("data_pipeline.formats.fasta", "from data_pipeline import splitting", "which stands above it"),
        ("gener_jax.sample", "from gener_jax.score import main", "a command that imports the command"),
        ("gener_jax.train", "from data_pipeline import build", "a command that imports the command"),
        ("gener_jax.benchmarks.train", "from gener_jax.benchmarks.inference import main", "a command that imports"),
        (
            "data_pipeline.dataset.writer",
            "from gener_jax.config import Config",
            "data_pipeline imports gener_jax.config",
        ),
        ("gener_jax.model.rope", "from gener_jax.model import decoder", "in a circle of imports"),
        (
            "data_pipeline.sequence.bases",
            "from data_pipeline.sequence.shared_kmers import mix",
            "in a circle of imports",
        ),
        ("gener_jax.benchmarks.loader", "from gener_jax import sample", "a command that imports the command"),
        ("gener_jax.benchmarks.measuring", "from gener_jax import doctor", "which stands beside it"),
        ("gener_jax.utils", "x = 1", "stands on no floor"),
        ("gener_jax.cli.command", "from gener_jax import plan", "which stands above it"),
    ],
)
def test_a_planted_import_is_found(module, planted, expected):
    modules = sources()
    found = faults({**modules, module: modules.get(module, "") + "\n" + planted + "\n"})
    assert any(module in line and expected in line for line in found), found
