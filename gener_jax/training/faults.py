"""What stops a run early: a signal, and a step that never ends."""

import faulthandler
import os
import signal
import sys
import threading
import time
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from gener_jax.runtime.progress import log

STUCK = 75  # exit status: try again (EX_TEMPFAIL)


class Termination:
    """Records SIGTERM, which batch systems send some time before they kill, and Ctrl-C; a context manager.

    With several processes, jax's preemption service sees SIGTERM in any of them and names one step for all; Ctrl-C in
    one of them is passed on to it as SIGTERM.

    A second Ctrl-C ends the process at once (in a notebook or interactive session it raises KeyboardInterrupt).
    """

    def __init__(self, folder: Path):
        """`folder`: of the run, which holds its checkpoints."""
        self._folder, self._asked, self._several, self._polls = folder, None, jax.process_count() > 1, 0

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            if not self._several:  # jax's service has a handler of its own
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._note)
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background of a shell's script
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            if handler is not None:
                signal.signal(number, handler)

    def _note(self, number, _):
        self._asked = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(number, self._before[number] if hasattr(sys, "ps1") else signal.SIG_DFL)
            saved = [int(path.name) for path in (self._folder / "checkpoints").glob("*") if path.name.isdigit()]
            then = f"resumes from step {max(saved)}" if saved else "starts again, since nothing is saved yet"
            # Now, since the system alone handles the second one: a step may be long, or never end.
            line = f"\nstopping once this step is saved; Ctrl-C again ends the run at once: it then {then}\n"
            os.write(2, line.encode())
            if self._several:
                os.kill(os.getpid(), signal.SIGTERM)

    def here(self) -> signal.Signals | None:
        """The signal to stop at now, or None; every process asks at the same points, and all stop at the same one."""
        self._polls += 1
        if self._several and multihost_utils.reached_preemption_sync_point(self._polls):
            return self._asked or signal.SIGTERM
        return None if self._several else self._asked


class Watchdog:
    """Ends the process after `minutes` without progress: a collective whose partner is gone never returns.

    It prints the stack of every thread and exits with status 75, so that the batch system restarts the run: the same
    command resumes from the last checkpoint. 0 minutes: never. A context manager.
    """

    def __init__(self, minutes: float):
        self._seconds, self._done = 60 * minutes, threading.Event()
        self._beat, self._what = time.monotonic(), "the first step"

    def beat(self, what: str) -> None:
        """Reports progress; `what` comes next."""
        self._beat, self._what = time.monotonic(), what

    def __enter__(self):
        if self._seconds:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._done.set()

    def _watch(self):
        while not self._done.wait(min(self._seconds / 10, 10)):
            if time.monotonic() - self._beat > self._seconds:
                minutes = self._seconds / 60
                log(
                    f"error: {self._what} has taken more than {minutes:g} minutes (train.watchdog_minutes). "
                    "The same command resumes from the last checkpoint. Stacks of all threads:"
                )
                faulthandler.dump_traceback(sys.stderr)
                sys.stderr.flush()
                os._exit(STUCK)
