"""Runs a command; listing the commands imports none of their libraries."""

from collections.abc import Callable


def run(main: Callable[[], int | None]) -> None:
    """Runs a command of this package."""
    from gener_jax.cli import command

    command.run(main)
