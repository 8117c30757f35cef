"""The documentation's site: sphinx-build -W -b html docs docs/_build/html."""

import ast
import dataclasses
import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data_pipeline.ranges import LARGEST, Range, Whole  # noqa: E402
from gener_jax import __version__  # noqa: E402
from gener_jax.config import schema  # noqa: E402

project = "gener_jax"
author = copyright = "the gener_jax authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_enable_extensions = ["colon_fence", "attrs_inline"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_generated"]
suppress_warnings = ["myst.xref_missing"]

html_theme = "furo"
html_title = "gener_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_line_continuation_character = "\\"

autodoc_member_order = "bysource"
autoclass_content = "both"  # with the docstring of the constructor
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def accepted(section: type) -> dict[str, str]:
    """What each field of a dataclass accepts, from the checks of its `__post_init__`: ranges, choices, conditions."""
    found = {}
    for node in ast.walk(ast.parse(inspect.getsource(section))):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "check" and len(node.args) > 1):
            continue
        condition, *problem = node.args[1:]
        if isinstance(condition, ast.Starred):  # *_one_of(choices)
            choices = eval(ast.unparse(condition.value.args[0]), vars(schema))
            text = ", ".join(f"`{choice}`" for choice in choices)
        elif problem:
            text = getattr(problem[0], "value", None)
            text = text if isinstance(text, str) and text.startswith(("must be ", "must contain ", "may ")) else None
        else:
            depends = "self." in ast.unparse(condition)  # on another field
            text = None if depends else shortened(eval(ast.unparse(condition), vars(schema)))
        for name in node.args[0].value.split() if text else ():
            found[name] = "; ".join(filter(None, [found.get(name), text]))
    return found


def shortened(numbers: Range) -> str:
    """A range in few words."""
    if isinstance(numbers, Whole) and numbers.most == LARGEST:
        return f"whole number ≥\N{NO-BREAK SPACE}{numbers.least}"
    if isinstance(numbers, Whole):
        return f"whole number from {numbers.least} to {numbers.most:,}"
    text = str(numbers).replace("a finite float32 number", "number").replace("a float32 number", "number")
    for word, sign in (("at least", "≥"), ("at most", "≤"), ("above", ">"), ("below", "<")):
        text = text.replace(f"{word} ", f"{sign}\N{NO-BREAK SPACE}")
    return text


def shown(value) -> str:
    """A default as one would type it on the command line."""
    text = {None: "none"}.get(value, ",".join(value) if isinstance(value, tuple) else str(value))
    return f"`{text}`" if text else "empty"


def fields(section: type) -> str:
    """A table of the fields of a dataclass: name, default, type and range, and its comment in the source."""
    tree = ast.parse(inspect.getsource(section)).body[0]
    lines = inspect.getsource(section).splitlines()
    nodes = {node.target.id: node for node in tree.body if isinstance(node, ast.AnnAssign)}
    ranges = accepted(section)
    kinds = {"int": "whole number", "float": "number", "str": "text", "bool": "true or false", "tuple": "list of texts"}
    rows = ["| field | default | values | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(section):
        if field.name not in nodes or dataclasses.is_dataclass(field.default_factory):
            continue
        node = nodes[field.name]
        annotation = ast.unparse(node.annotation)
        kind = kinds[annotation.removesuffix(" | None").partition("[")[0]]
        values = ranges.get(field.name, kind)
        if values.startswith("m") and kind not in values:
            values = f"{kind}; {values}"
        values += ", or none" if annotation.endswith("| None") else ""
        meaning = lines[node.end_lineno - 1].partition("  # ")[2]
        if not meaning:
            raise ValueError(f"{section.__name__}.{field.name} has no comment in schema.py")
        rows.append(f"| `{field.name}` | {shown(field.default)} | {values} | {meaning} |")
    return "\n".join(rows)


def write_configuration() -> None:
    """Writes the tables of all config fields, from the dataclasses, for docs/configuration.md to include."""
    pages = [f"### `config`\n\nThe name and conventions of the model.\n\n{fields(schema.ModelSpec)}\n"]
    for field in dataclasses.fields(schema.Config):
        section = field.default_factory
        if dataclasses.is_dataclass(section):
            heading = f"### `config.{field.name}`"
            pages.append(f"{heading}\n\n{inspect.cleandoc(section.__doc__)}\n\n{fields(section)}\n")
    folder = Path(__file__).parent / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / "configuration.md").write_text("\n".join(pages).replace("<", "\\<"))


write_configuration()
