"""What a user can mend, said in one line."""


class CheckpointError(ValueError):
    """A checkpoint that is absent, of another shape, or of another run: one line for the user."""


class DamagedError(CheckpointError):
    """A checkpoint whose files cannot be read, or hold other numbers than were written."""


class TrainingError(ValueError):
    """A run that cannot sensibly go on: one line for the user."""
