"""The error that bad input, or a damaged dataset, raises."""


class DataError(ValueError):
    """A fault in a file or an argument; its text is one line: what is wrong, where, and what to do."""
