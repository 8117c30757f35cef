"""A lock file: only one process at a time writes an output."""

import contextlib
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.errors import FileError


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, which names this host and process; removes it, and folders made for it, at the end.

    The kernel releases the lock of a process that ends, however it ends, so a file that a killed process left is taken
    over. Processes on several hosts exclude each other if their file system has locks; if it has none, a warning says
    so.

    Raises:
      FileError: if another process holds it.
    """
    path = path.absolute()
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(path)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on host {socket.gethostname()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        for folder in made:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


def _locked(path: Path) -> int:
    """The descriptor of the locked file."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            remedy = "wait until it ends, or stop it"
            raise FileError(f"is held by {holder}, which is writing there", file=path, remedy=remedy) from None
        except OSError as error:
            warnings.warn(f"{path}: cannot be locked ({error.strerror}): start no other process there", stacklevel=4)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # the process that held it has removed it since
