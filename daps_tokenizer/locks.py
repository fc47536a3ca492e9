"""Locks on folders: of the processes that write to one, one wins and the others are told."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daps_tokenizer.errors import DapsError, InUseError


@contextmanager
def locked(
    path: Path, *, shared: bool = False, advice: str = "writes here; wait until it ends, or name another folder"
) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs; a folder that is made for it and stays empty is removed.

    The system drops the lock of a process that ends, however it ends, so nobody has to remove a lock by hand.

    Args:
        path: of the lock file, which is removed when nobody holds it.
        shared: whether others may hold it too, which ask for it in the same way.
        advice: what the error says after the name of the process that holds it.

    Raises:
        InUseError: another process holds it.
        DapsError: the folder cannot be written to, or its file system has no locks.
    """
    is_new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _open_locked(path, shared, advice)
    except OSError as error:
        if isinstance(error, InUseError):
            raise
        raise DapsError(f"{path.parent}: cannot be written ({error.strerror})") from error
    try:
        if not shared:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        if not shared or _lock(descriptor, shared=False):  # the last one that shared it
            path.unlink(missing_ok=True)
        os.close(descriptor)
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                path.parent.rmdir()


def _open_locked(path: Path, shared: bool, advice: str) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            if not _lock(descriptor, shared):
                owner = os.read(descriptor, 20).decode(errors="replace").strip()
                who = f"process {owner}" if owner.isdecimal() else "another process"
                raise InUseError(f"{path.parent}: {who} {advice}")
            # The last owner may have removed the file between opening and locking it.
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, shared: bool) -> bool:
    """Whether the lock of an open file could be had, or changed, without waiting."""
    import fcntl  # POSIX

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
