"""Progress of long work on standard error: a bar on a terminal, plain lines otherwise."""

import math
import os
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from data_pipeline.errors import counted

_BAR = 10  # columns that the bar itself keeps on a narrow terminal


class Progress:
    """Training steps."""

    def __init__(self, total: int, initial: int, every: int, *, quiet: bool = False):
        """A plain line per `every` steps; `quiet` shows nothing."""
        self._quiet, self._total, self._every, self._bar = quiet, total, every, None
        if sys.stderr.isatty() and not quiet:
            layout = "{n_fmt}/{total_fmt} |{bar}| {desc}"
            self._bar = tqdm(total=total, initial=initial, dynamic_ncols=True, bar_format=layout)

    def update(self, step: int, measures: Sequence[str], tokens_per_s: float | None, seconds_left: float) -> None:
        """Shows that `step` is done; of its `measures`, such as "loss 5.1234", as many as the terminal has room for."""
        if self._bar is not None:
            rest = [f"{tqdm.format_sizeof(tokens_per_s)} tokens/s"] if tokens_per_s else []
            rest += [] if math.isnan(seconds_left) else [f"{tqdm.format_interval(seconds_left)} left"]
            columns = os.get_terminal_size(sys.stderr.fileno()).columns - len(f"{step}/{self._total} || ") - _BAR
            texts = ["  ".join([*measures[:n], *rest]) for n in range(len(measures), 0, -1)]
            self._bar.set_description_str(next((x for x in texts if len(x) <= columns), texts[-1]), refresh=False)
            self._bar.update(step - self._bar.n)
        elif not self._quiet and (step % self._every == 0 or step == self._total):
            rest = [f"{tokens_per_s:,.0f} tokens/s"] if tokens_per_s else []
            rest += [] if math.isnan(seconds_left) else [f"{seconds_left / 60:.1f} min left"]
            log("  ".join([f"step {step}/{self._total}", *measures, *rest]))

    def close(self) -> None:
        """Ends the bar's line."""
        if self._bar is not None:
            self._bar.close()


def log(text: str) -> None:
    """Writes one line to standard error, around a progress bar."""
    tqdm.write(text, file=sys.stderr)


class Rate:
    """Sequences or variants done so far, and their rate, also in bases."""

    def __init__(
        self, unit: str, total: int | None, initial: int = 0, seconds: float = 10, *, rows_printed: bool = False
    ):
        """`seconds` between plain lines; no bar if rows are printed on a terminal, whose lines it would break."""
        bar = sys.stderr.isatty() and not (rows_printed and sys.stdout.isatty())
        self._bar = tqdm(total=total, initial=initial, unit=unit, dynamic_ncols=True) if bar else None
        self._unit, self._total, self._initial, self._seconds = unit, total, initial, seconds
        self._began = self._printed = time.perf_counter()
        self.done, self.bases = initial, 0

    def update(self, done: int, bases: int) -> None:
        """Adds `done` items of `bases` bases in all."""
        self.done += done
        self.bases += bases
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self.bases / max(now - self._began, 1e-9) / 1000:,.1f} kb/s", refresh=False)
            self._bar.update(done)
        elif now - self._printed > self._seconds:
            self._printed = now
            log(self.line())

    def line(self) -> str:
        """The state of the work and its rate, as one line."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        rate = (self.done - self._initial) / seconds
        of = "" if self._total is None else f"{self.done:,} of "
        items = counted(self.done if self._total is None else self._total, self._unit)
        left = "" if not rate or self._total is None else f"  {(self._total - self.done) / rate / 60:.1f} min left"
        return f"{of}{items}  {rate:,.1f}/s  {self.bases / seconds / 1000:,.1f} kb/s{left}"

    def close(self) -> None:
        """Ends with a line."""
        if self._bar is not None:
            self._bar.close()
        log(self.line())
