"""Runs a command; listing the commands does not import jax."""

from collections.abc import Callable


def run(main: Callable[[], int | None]) -> None:
    """Runs a command of this package; jax is imported only here."""
    from gener_jax.cli import command

    command.run(main)
