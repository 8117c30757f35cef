"""Results of several models by several tasks for a reader: `table.md`, and `index.html`, one page without a network.

Both have the same tables: an overview, and for each task the models side by side above random weights, other baselines
and published figures, with intervals and gains.
"""

import base64
import dataclasses
import html
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipeline.files import write_text
from gener_jax.plotting import evaluation as plots
from gener_jax.plotting.figure import draw
from gener_jax.storage.results import Evaluation, Gain, Measured, Numbers, Results, Skipped, counted, signed
from gener_jax.tasks.suite import NOT_RUN, RANDOM, Cell, is_random, plot_of

MARKDOWN, HTML = "table.md", "index.html"


@dataclasses.dataclass(frozen=True)
class Table:
    """Text in rows; `strong` rows are of models."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True)
class Section:
    """A task: its title, what was measured, its table, notes, and tables by group."""

    task: str
    title: str
    about: str
    table: Table
    notes: tuple[str, ...]
    groups: tuple[tuple[str, Table], ...]


def write(results: Results, cells: Sequence[Cell], folder: Path) -> None:
    """Writes `table.md`, `index.html` and a plot of each task in `plots/` into the folder of a suite."""
    found = list(sections(results))
    pictures: dict[str, list[tuple[str, Path]]] = {}
    for section in found:
        if rows := _dots(results, section.task):
            path = folder / "plots" / f"{section.task}.png"
            draw(path, plots.compared, section.title, section.about.partition(";")[0], rows)
            pictures[section.task] = [("compared", path)]
    for cell in cells:
        if cell.evaluation is not None and not cell.candidate.random:
            model = cell.candidate.model.name
            for name in cell.figures:
                made = (f"{model}: {_words(name)}", plot_of(folder, cell, name))
                pictures.setdefault(cell.entry.name, []).append(made)
    write_text(folder / MARKDOWN, markdown(results, found))
    write_text(folder / HTML, page(results, found, pictures))


def overview(results: Results) -> Table:
    """A row per task: the main metric of each model, of random weights, of the best other baseline, and published.

    Tasks that were run for no model have none.
    """
    models = _models(results)
    known = {(each.task, each.model.name): each for each in results.evaluations}
    skipped = {(each.task, each.model): each.status for each in results.skipped}
    rows = []
    failed = [each.task for each in results.skipped if each.status != NOT_RUN]
    for task in dict.fromkeys([*(each.task for each in results.evaluations), *failed]):
        first = next((each for each in results.evaluations if each.task == task), None)
        main = next(iter(first.metrics)) if first else ""
        row = [_words(task), _header(main, first.metrics[main]) if first else ""]
        for model in models:
            found = known.get((task, model))
            row.append(skipped.get((task, model), "") if found is None else _value(found.metrics[main]))
        random = _of_row(first.baselines.get(RANDOM, {}), main) if first else ""
        random = random or next((x.status for x in results.skipped if x.task == task and is_random(x.model)), "")
        rows.append((*row, random, _best(first, main), _reported(first, main)))
    columns = ("task", "metric", *models, "random weights", "best baseline", "published, comparable")
    return _without_empty(Table(columns, tuple(rows)))


def absent(results: Results) -> Table:
    """The tasks that no model has a number of, and why; models with one reason share a row."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    done = {each.task for each in results.evaluations}
    for each in results.skipped:
        if each.task not in done:
            what = "not run here" if each.status == NOT_RUN else each.status
            reasons.setdefault((each.task, what, each.reason), []).append(each.model)
    rows = [(_words(task), ", ".join(models), what, reason) for (task, what, reason), models in reasons.items()]
    return Table(("task", "model", "", "reason"), tuple(rows))


def sections(results: Results) -> Iterator[Section]:
    """The tasks that a model has a number of, in their order."""
    for task in dict.fromkeys(each.task for each in results.evaluations):
        evaluations = [each for each in results.evaluations if each.task == task]
        skipped = [each for each in results.skipped if each.task == task]
        gains = [each for each in results.gains if each.task == task]
        notes = dict.fromkeys(each.note for each in evaluations if each.note)
        main, measured = next(iter(evaluations[0].metrics.items()))
        better = {True: ", higher is better", False: ", lower is better", None: ""}[measured.higher_is_better]
        texts = {each.model.name: counted(each.counts) for each in evaluations}
        same = len(set(texts.values())) == 1  # else a context or a tokenizer left rows out
        counts = texts[evaluations[0].model.name] if same else "; ".join(map(": ".join, texts.items()))
        about, groups = f"{_titled(main, measured)}{better}; {counts}", tuple(_groups(evaluations))
        yield Section(task, _words(task), about, _table(evaluations, skipped, gains), tuple(notes), groups)


def _table(evaluations: Sequence[Evaluation], skipped: Sequence[Skipped], gains: Sequence[Gain]) -> Table:
    metrics = list(dict.fromkeys(name for each in evaluations for name in each.metrics))
    main = metrics[0]
    headers = [_header(name, next(x.metrics[name] for x in evaluations if name in x.metrics)) for name in metrics]
    models = [each.model.name for each in evaluations]
    rows, strong = [], set()
    over = {(each.model, each.over): _gain(each.gain, each.low, each.high) for each in gains}
    over |= {(each.over, each.model): _gain(*_turned(each)) for each in gains}
    for each in evaluations:
        strong.add(len(rows))
        values = [_value(each.metrics[name]) if name in each.metrics else "" for name in metrics]
        rows.append((each.model.name, *values, *(over.get((model, each.model.name), "") for model in models), ""))
    for absent in skipped:
        what = "not run here" if absent.status == NOT_RUN else absent.status
        name = absent.model.replace(RANDOM, _words(RANDOM)) if is_random(absent.model) else absent.model
        rows.append((name, f"{what}: {absent.reason}", *[""] * (len(metrics) + len(models))))
    for label, row, gained in _baselines(evaluations, main):
        compared = [_gain(*gained.get(model, (None, None, None))) for model in models]
        rows.append((label, *(_of_row(row, metric) for metric in metrics), *compared, ""))
    reported = dict.fromkeys(each for evaluation in evaluations for each in evaluation.published)
    for model in dict.fromkeys(each.model for each in reported):
        of_model = [each for each in reported if each.model == model]
        values = {each.metric: _number(each.value) for each in of_model}
        values |= {x.metric: f"{_number(x.value)} ± {_number(x.standard_error)}" for x in of_model if x.standard_error}
        those = [_words(each.metric) for each in of_model if each.comparable]
        how = "comparable" if those else "not comparable"
        how += f" in {', '.join(those)} alone" if 0 < len(those) < len(of_model) else ""
        source = f"{how}; {'; '.join(dict.fromkeys(each.source for each in of_model))}"
        rows.append((f"{model} (published)", *(values.get(name, "") for name in metrics), *[""] * len(models), source))
    columns = ("", *headers, *(f"gain of {model} over it" for model in models), "source")
    width = len(columns)
    return _without_empty(Table(columns, tuple((*row, *[""] * width)[:width] for row in rows), frozenset(strong)))


def _baselines(evaluations: Sequence[Evaluation], main: str) -> Iterator[tuple[str, Numbers, dict[str, tuple]]]:
    """What a baseline is called, its values, and the gains over it by model.

    Most values are the same for all models; where they differ, the models beside which they stand are named.
    """
    for name in dict.fromkeys(name for each in evaluations for name in each.baselines):
        distinct: list[tuple[Numbers, dict[str, tuple]]] = []
        for each in evaluations:
            row = dict(each.baselines.get(name, {}))
            gained = tuple(row.pop(f"{main}_gain{end}", None) for end in ("", "_low", "_high"))
            if name in each.baselines:
                owners = next((owners for known, owners in distinct if known == row), None)
                if owners is None:
                    distinct.append((row, owners := {}))
                owners[each.model.name] = gained
        for row, owners in distinct:
            beside = f" ({', '.join(owners)})" if len(owners) < len(evaluations) else ""
            yield _words(name) + _fewer(row) + beside, row, owners


def _groups(evaluations: Sequence[Evaluation]) -> Iterator[tuple[str, Table]]:
    """A table of the main metric by each column of the breakdown, the models side by side."""
    main = next(iter(evaluations[0].metrics))
    for column in dict.fromkeys(column for each in evaluations for column in each.groups):
        by = [each.groups.get(column, {}) for each in evaluations]
        names = list(dict.fromkeys(name for groups in by for name in groups))
        if not any(main in row for groups in by for row in groups.values()):
            continue
        counts = [
            name for name in evaluations[0].counts if any(name in row for groups in by for row in groups.values())
        ]
        rows = []
        for name in names:
            sizes = [next((g[name][count] for g in by if count in g.get(name, {})), None) for count in counts]
            values = [_of_row(groups.get(name, {}), main) for groups in by]
            rows.append((name, *values, *("" if size is None else f"{size:,}" for size in sizes)))
        columns = (_words(column), *(each.model.name for each in evaluations), *map(_words, counts))
        yield f"{_words(main)} by {_words(column)}", Table(columns, tuple(rows))


def _dots(results: Results, task: str) -> list[tuple[str, str, float, float | None, float | None]]:
    """What a plot of a task compares, models first; empty if there is nothing beside one model."""
    evaluations = [each for each in results.evaluations if each.task == task]
    main = next(iter(evaluations[0].metrics))
    of_models = [(each.model.name, each.metrics[main]) for each in evaluations]
    rows = [(name, "models", found.value, found.low, found.high) for name, found in of_models]
    for label, row, _ in _baselines(evaluations, main):
        rows.append((label, "baselines", row.get(main), row.get(f"{main}_low"), row.get(f"{main}_high")))
    for each in evaluations[0].published:
        if each.metric == main:
            kind = "published, comparable" if each.comparable else "published, not comparable"
            error = 1.96 * each.standard_error if each.standard_error else None
            ends = (each.value - error, each.value + error) if error else (None, None)
            rows.append((each.model, kind, each.value, *ends))
    rows = [row for row in rows if row[2] is not None]
    return rows if len(rows) > 1 else []


def text(table: Table) -> str:
    """A table in columns, for a terminal."""
    rows = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    return "\n".join("  ".join(f"{x:{width}}" for x, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def markdown(results: Results, found: Sequence[Section]) -> str:
    """The tables as Markdown."""
    lines = [f"# Evaluation of {', '.join(_models(results))}", "", *_markdown(overview(results)), ""]
    for section in found:
        lines += [f"## {_escaped(section.title)}", ""]
        lines += [_escaped(section.about), ""] if section.about else []
        lines += [*_markdown(section.table), ""]
        for note in section.notes:
            lines += [_escaped(note), ""]
        for title, table in section.groups:
            lines += [f"### {_escaped(title)}", "", *_markdown(table), ""]
    if (without := absent(results)).rows:
        lines += ["## Without a result", "", *_markdown(without)]
    return "\n".join(lines).rstrip() + "\n"


def _markdown(table: Table) -> list[str]:
    def line(cells):
        return "| " + " | ".join(cells) + " |"

    rows = [
        line([f"**{_escaped(x)}**" if i in table.strong and x and not j else _escaped(x) for j, x in enumerate(row)])
        for i, row in enumerate(table.rows)
    ]
    return [line(map(_escaped, table.columns)), line(["---"] * len(table.columns)), *rows]


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one cell of a table."""
    text = " ".join(str(text).split())
    for special in ("\\", "|", "*", "`", "]("):
        text = text.replace(special, "\\" + special)
    return html.escape(text, quote=False)


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1.5rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { white-space: nowrap; } tr.model { font-weight: 600; background: var(--soft); }
figure { display: inline-block; margin: 1rem 1rem 0 0; max-width: 36rem; }
img { max-width: 100%; background: white; border-radius: 4px; } figcaption, .about { opacity: .75; font-size: .9em; }
nav ul { columns: 3 14rem; padding-left: 1.2rem; }
"""


def page(results: Results, found: Sequence[Section], pictures: dict[str, list[tuple[str, Path]]]) -> str:
    """The page: contents, tables and plots, in one file."""
    e, made = html.escape, results.environment
    title = e(f"Evaluation of {', '.join(_models(results))}")
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>",
    ]
    for each in dict.fromkeys(each.model for each in results.evaluations):
        step = "" if each.step is None else f", step {each.step:,}"
        parts.append(f"<p>{e(f'{each.name}: {each.parameters:,} parameters, {each.checkpoint}{step}')}</p>")
    devices = ", ".join(map(str, made.get("devices", ())))
    where = f"{results.date}; gener_jax {made.get('versions', {}).get('gener_jax')}; {devices}"
    parts += [f'<p class="about">{e(where)}</p>', _html(overview(results)), "<nav><h2>Tasks</h2><ul>"]
    parts += [f'<li><a href="#{e(each.task)}">{e(each.title)}</a></li>' for each in found]
    without = absent(results)
    parts += ['<li><a href="#absent">Without a result</a></li>'] if without.rows else []
    parts.append("</ul></nav>")
    for each in found:
        parts.append(f'<h2 id="{e(each.task)}">{e(each.title)}</h2>')
        parts += [f'<p class="about">{e(each.about)}</p>'] if each.about else []
        parts.append(_html(each.table))
        parts += [f"<p>{e(note)}</p>" for note in each.notes]
        for caption, path in pictures.get(each.task, ()):
            if path.is_file():  # a plot that failed is a warning
                data = base64.b64encode(path.read_bytes()).decode()
                image = f'<img alt="{e(each.title)}, {e(caption)}" src="data:image/png;base64,{data}">'
                parts.append(f"<figure>{image}<figcaption>{e(caption)}</figcaption></figure>")
        for name, table in each.groups:
            parts.append(f"<details><summary>{e(name)}</summary>{_html(table)}</details>")
    parts += ['<h2 id="absent">Without a result</h2>', _html(without)] if without.rows else []
    return "\n".join([*parts, "</body>\n</html>\n"])


def _html(table: Table) -> str:
    def line(tag, cells, kind=""):
        return f"<tr{kind}>" + "".join(f"<{tag}>{html.escape(x)}</{tag}>" for x in cells) + "</tr>"

    rows = [line("td", row, ' class="model"' * (i in table.strong)) for i, row in enumerate(table.rows)]
    return f'<div class="scroll"><table>\n{line("th", table.columns)}\n' + "\n".join(rows) + "\n</table></div>"


def _models(results: Results) -> list[str]:
    found = [each.model.name for each in results.evaluations] + [each.model for each in results.skipped]
    return [name for name in dict.fromkeys(found) if not is_random(name)]


def _without_empty(table: Table) -> Table:
    """Without columns that hold nothing."""
    kept = [i for i in range(len(table.columns)) if not i or any(row[i] for row in table.rows)]
    return Table(
        tuple(table.columns[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in table.rows), table.strong
    )


def _best(evaluation: Evaluation | None, main: str) -> str:
    """The best baseline but random weights, with its name."""
    if evaluation is None or (higher := evaluation.metrics[main].higher_is_better) is None:
        return ""
    others = {name: row for name, row in evaluation.baselines.items() if name != RANDOM and row.get(main) is not None}
    if not others:
        return ""
    name = (max if higher else min)(others, key=lambda name: others[name][main])
    return f"{_number(others[name][main])} ({_words(name)}{_fewer(others[name])})"


def _fewer(row: Numbers) -> str:
    """How many rows a baseline has a value of, if not all: its number is of these alone."""
    return f", {row['rows']:,} rows" if "rows" in row else ""


def _reported(evaluation: Evaluation | None, main: str) -> str:
    """The best published figure that compares, with its model."""
    known = [x for x in (evaluation.published if evaluation else ()) if x.comparable and x.metric == main]
    if not known:
        return ""
    best = (min if evaluation.metrics[main].higher_is_better is False else max)(known, key=lambda x: x.value)
    return f"{_number(best.value)} ({best.model})"


def _turned(gain: Gain) -> tuple[float | None, float | None, float | None]:
    return tuple(None if x is None else -x for x in (gain.gain, gain.high, gain.low))


def _gain(gain: float | None, low: float | None, high: float | None) -> str:
    return "" if gain is None else signed(gain) + _between(low, high)


def _value(found: Measured) -> str:
    return "none" if found.value is None else _number(found.value) + _between(found.low, found.high)


def _of_row(row: Numbers, metric: str) -> str:
    value = row.get(metric)
    return "" if value is None else _number(value) + _between(row.get(f"{metric}_low"), row.get(f"{metric}_high"))


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    return f"{value:z,.4f}" if abs(value) < 10 else f"{value:,.1f}"


def _header(name: str, metric: Measured) -> str:
    return _titled(name, metric) + {True: " ↑", False: " ↓", None: ""}[metric.higher_is_better]


def _titled(name: str, metric: Measured) -> str:
    """A metric with its unit, unless the name says it."""
    return _words(name) + (f" ({metric.unit})" if metric.unit and metric.unit not in _words(name) else "")


def _words(name: str) -> str:
    return name.replace("_", " ")
