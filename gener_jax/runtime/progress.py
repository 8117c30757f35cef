"""Progress of long work on standard error: a bar on a terminal, plain lines otherwise."""

import math
import sys
import time

from tqdm import tqdm


class Progress:
    """Training steps."""

    def __init__(self, total: int, initial: int, every: int, *, quiet: bool = False):
        """A plain line per `every` steps; `quiet` shows nothing."""
        bar = sys.stderr.isatty() and not quiet
        self._bar = tqdm(total=total, initial=initial, unit="step", dynamic_ncols=True) if bar else None
        self._quiet, self._total, self._every = quiet, total, every

    def update(self, step: int, text: str, seconds_left: float) -> None:
        """Shows that `step` is done."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
        elif not self._quiet and (step % self._every == 0 or step == self._total):
            left = "" if math.isnan(seconds_left) else f"  {seconds_left / 60:.1f} min left"
            log(f"step {step}/{self._total}  {text}{left}")

    def close(self) -> None:
        """Ends the bar's line."""
        if self._bar is not None:
            self._bar.close()


def log(text: str) -> None:
    """Writes one line to standard error, around a progress bar."""
    tqdm.write(text, file=sys.stderr)


class Rate:
    """Sequences or variants done so far, and their rate, also in bases."""

    def __init__(self, unit: str, total: int | None, initial: int = 0, seconds: float = 10):
        """`seconds` between plain lines."""
        self._bar = tqdm(total=total, initial=initial, unit=unit, dynamic_ncols=True) if sys.stderr.isatty() else None
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
        of = "" if self._total is None else f" of {self._total:,}"
        left = "" if not rate or self._total is None else f"  {(self._total - self.done) / rate / 60:.1f} min left"
        return f"{self.done:,}{of} {self._unit}s  {rate:,.1f}/s  {self.bases / seconds / 1000:,.1f} kb/s{left}"

    def close(self) -> None:
        """Ends with a line."""
        if self._bar is not None:
            self._bar.close()
        log(self.line())
