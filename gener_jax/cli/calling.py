"""How a verb is run: jax is imported with it, not with the list of verbs."""

from collections.abc import Callable


def run(main: Callable[[], int | None]) -> None:
    """Runs a command of this package; jax is imported only here."""
    from gener_jax.cli import command

    command.run(main)
