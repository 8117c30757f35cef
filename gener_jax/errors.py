"""What a user can mend, said in one line."""


class CheckpointError(ValueError):
    """A checkpoint that is absent, of another shape, or of another run: one line for the user."""
