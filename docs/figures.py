"""Draws the picture of the README: python docs/figures.py writes docs/_static/quickstart.svg.

The numbers are the held-out bits per base that `gener-jax train --config=experiments/quickstart.py` logged on two
x86-64 cores on 2026-11-27 (commit fc97028, Python 3.11, jax 0.10.2), and its Markov baselines on the same bases.
"""

from pathlib import Path

STEPS = range(50, 451, 50)
BITS = (1.7633, 1.6804, 1.6644, 1.6536, 1.6515, 1.6454, 1.6448, 1.6396, 1.6390)
BASELINES = (("Markov order 0", 1.7895), ("Markov order 5", 1.7126))
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 300, 60, 170, 44, 46
LOW, HIGH = 1.62, 1.80
BLUE, GREY, INK = "#1f6feb", "#8b949e", "#1f2328"


def x(step: float) -> float:
    """Pixels from the left of a training step."""
    return LEFT + (WIDTH - LEFT - RIGHT) * step / STEPS[-1]


def y(bits: float) -> float:
    """Pixels from the top of bits per base."""
    return TOP + (HEIGHT - TOP - BOTTOM) * (HIGH - bits) / (HIGH - LOW)


def text(left: float, top: float, words: str, color: str = INK, anchor: str = "start", size: int = 13) -> str:
    """A line of text."""
    return f'<text x="{left:.0f}" y="{top:.0f}" fill="{color}" text-anchor="{anchor}" font-size="{size}">{words}</text>'


def curve() -> str:
    """Held-out bits per base by training step, beside the Markov models."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" role="img">',
        "<title>Held-out bits per base of the quickstart model by training step, and of Markov models</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>',
        text(LEFT, 24, "Held-out bits per base, one bacterial chromosome, six minutes on two CPU cores", size=14),
    ]
    for bits in (1.65, 1.70, 1.75, 1.80):
        parts.append(f'<path d="M{LEFT} {y(bits):.0f}H{WIDTH - RIGHT}" stroke="#d8dee4"/>')
        parts.append(text(LEFT - 8, y(bits) + 4, f"{bits:.2f}", GREY, "end"))
    for name, bits in BASELINES:
        parts.append(f'<path d="M{LEFT} {y(bits):.1f}H{WIDTH - RIGHT}" stroke="{GREY}" stroke-dasharray="5 4"/>')
        parts.append(text(WIDTH - RIGHT + 8, y(bits) + 4, f"{name}  {bits:.4f}", "#57606a"))
    line = " ".join(f"{x(step):.1f},{y(bits):.1f}" for step, bits in zip(STEPS, BITS, strict=True))
    parts.append(f'<polyline points="{line}" fill="none" stroke="{BLUE}" stroke-width="2.5"/>')
    for step, bits in zip(STEPS, BITS, strict=True):
        parts.append(f'<circle cx="{x(step):.1f}" cy="{y(bits):.1f}" r="3.5" fill="{BLUE}"/>')
    parts.append(text(WIDTH - RIGHT + 8, y(BITS[-1]) + 4, f"this model  {BITS[-1]:.4f}", BLUE))
    for step in range(0, STEPS[-1] + 1, 150):
        parts.append(text(x(step), HEIGHT - BOTTOM + 18, str(step), GREY, "middle"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "training step of 2 048 tokens", "#57606a", "middle"))
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    (Path(__file__).parent / "_static" / "quickstart.svg").write_text(curve())
