"""Asserts the class and attributes of an error, not its wording."""

import contextlib
from pathlib import Path

import pytest


@contextlib.contextmanager
def raises(kind, **attributes):
    """`pytest.raises` of exactly this class, with these attributes and one printable line of text.

    `file` is compared with the error's whole path, or only with its file name if it is a plain name.
    """
    with pytest.raises(kind) as caught:
        yield caught
    check(caught.value, kind, **attributes)


def check(error, kind, **attributes):
    """Asserts the class and the attributes of an error."""
    assert type(error) is kind, repr(error)
    for name, expected in attributes.items():
        found = getattr(error, name)
        if name == "file":
            found = str(found) if "/" in str(expected) else Path(found).name
            expected = str(expected)
        assert found == expected, f"{name}: {found!r}, expected {expected!r}; {error}"
    text = str(error)
    assert text.isprintable(), text
    for name in ("file", "record", "field", "remedy", "path", "name", "argument"):
        expected = getattr(error, name, None)
        assert expected is None or str(expected) in text, text
