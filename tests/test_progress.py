"""What is shown while something runs, on a terminal of 80 columns and off a terminal."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios

import pytest

from gener_jax.runtime.progress import Progress, Rate

MEASURES = ["loss 5.1234", "bits/base 1.9876"]


@pytest.fixture
def shown(monkeypatch):
    """Replaces standard error by a terminal of some columns; gives what was last written on its line."""
    main, terminal = pty.openpty()
    with open(terminal, "w") as stream:

        def last(columns, work):
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
            with monkeypatch.context() as patch:  # pytest replaces it between a fixture and the test
                patch.setattr(sys, "stderr", stream)
                work()
            written = b""
            while select.select([main], [], [], 0.2)[0]:
                written += os.read(main, 1 << 16)
            return [line for line in re.split(r"[\r\n]+", written.decode()) if line.strip()][-1]

        yield last
        os.close(main)


@pytest.mark.parametrize(("step", "total", "speed"), [(40, 450, 987.6), (184_999, 185_000, 12_345_678.9)])
@pytest.mark.parametrize(("columns", "measures"), [(70, 1), (80, 1), (120, 2)])
def test_the_bar_of_training_fits_the_terminal(shown, step, total, speed, columns, measures):
    def work():
        progress = Progress(total, 0, 10)
        progress.update(step, MEASURES, speed, 45_678.0)
        progress.close()

    line = shown(columns, work)
    assert len(line) <= columns
    count, bar, text = line.split("|")
    assert count == f"{step}/{total} "
    assert len(bar) >= 10
    rate, left = ("988 tokens/s" if step == 40 else "12.3M tokens/s"), "12:41:18 left"
    assert text.strip().split("  ") in ([*MEASURES[:n], rate, left] for n in range(measures, 3))


def test_the_bar_of_scoring_fits_the_terminal(shown):
    def work():
        rate = Rate("sequence", 123_456)
        rate._began, rate._bar.start_t = rate._began - 100, rate._bar.start_t - 100
        rate.update(12_345, 98_765_432)
        rate._bar.refresh()

    line = shown(80, work)
    assert len(line) <= 80
    assert re.search(r"^ 10%\|.{10,}\| 12345/123456 \[.*kb/s\]$", line)


def test_plain_lines_are_those_of_the_log(capsys):
    """Also of a run that resumes between two of them."""
    progress = Progress(25, 3, 10)
    for step in range(4, 26):
        progress.update(step, MEASURES, None if step < 20 else 1234.5, float("nan") if step < 20 else 90.0)
    assert capsys.readouterr().err.splitlines() == [
        "step 10/25  loss 5.1234  bits/base 1.9876",
        "step 20/25  loss 5.1234  bits/base 1.9876  1,234 tokens/s  1.5 min left",
        "step 25/25  loss 5.1234  bits/base 1.9876  1,234 tokens/s  1.5 min left",
    ]
    Progress(25, 3, 10, quiet=True).update(10, MEASURES, None, 1.0)
    assert capsys.readouterr().err == ""
