"""The documentation's site: sphinx-build -W -b html docs docs/_build/html."""

import ast
import dataclasses
import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

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
autodoc_typehints = "description"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def fields(section: type) -> str:
    """A table of the fields of a dataclass: name, default, and its comment in the source."""
    tree = ast.parse(inspect.getsource(section)).body[0]
    lines = inspect.getsource(section).splitlines()
    comments = {
        node.target.id: lines[node.end_lineno - 1].partition("  # ")[2].removesuffix(" # fmt: skip")
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
    }
    rows = ["| field | default | |", "|---|---|---|"]
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(field.default_factory):
            continue
        text = "" if field.default is dataclasses.MISSING else str(field.default)
        rows.append(f"| `{field.name}` | {f'`{text}`' if text else ''} | {comments.get(field.name, '')} |")
    return "\n".join(rows)


def write_configuration() -> None:
    """Writes the tables of all config fields, from the dataclasses, for docs/configuration.md to include."""
    pages = []
    for field in dataclasses.fields(schema.Config):
        section = field.default_factory
        if dataclasses.is_dataclass(section):
            heading = f"## `config.{field.name}`"
            pages.append(f"{heading}\n\n{inspect.cleandoc(section.__doc__)}\n\n{fields(section)}\n")
    folder = Path(__file__).parent / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / "configuration.md").write_text("\n".join(pages).replace("<", "\\<"))


write_configuration()
