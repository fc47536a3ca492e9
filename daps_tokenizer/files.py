"""Files that are read only if they are ones; output files and folders that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from daps_tokenizer.errors import DapsError, ModelFileError, OutputExistsError, reason_of


def open_regular_file(path: str | os.PathLike[str], *, most_bytes: int) -> BinaryIO:
    """Open a file, or one that a link leads to, for reading; never waits for a pipe, never opens a device.

    Raises:
        OSError: it cannot be opened, is no regular file, or holds more than ``most_bytes``; ``strerror`` says which.
    """

    def without_waiting(name: str, flags: int) -> int:  # opening a named pipe waits until somebody writes to it
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    file = open(path, "rb", opener=without_waiting)  # noqa: SIM115 - the caller closes it
    found = os.fstat(file.fileno())
    if stat.S_ISREG(found.st_mode) and found.st_size <= most_bytes:
        return file
    file.close()
    if stat.S_ISREG(found.st_mode):
        raise OSError(errno.EFBIG, f"larger than {most_bytes:,} bytes")
    raise OSError(errno.EINVAL, "not a regular file")


def read_regular_file(path: str | os.PathLike[str], *, most_bytes: int) -> bytes:
    """All of a file; errors of :func:`open_regular_file`."""
    with open_regular_file(path, most_bytes=most_bytes) as file:
        return file.read(most_bytes)


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content; OSError where it cannot be read."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def check_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Compare files in a folder with their sha256, where they are there.

    Raises:
        ModelFileError: a file is damaged or cannot be read.
    """
    for name, expected in sums.items():
        try:
            found = sha256_of(folder / name)
        except FileNotFoundError:
            continue  # whoever needs it says so
        except OSError as error:
            raise ModelFileError(f"{folder / name}: cannot be read ({error.strerror})") from error
        if found != expected:
            raise ModelFileError(f"{folder / name}: is damaged, its sha256 is not the recorded one; use another copy")


def write_bytes_atomically(path: str | os.PathLike[str], data: bytes, *, overwrite: bool = True) -> None:
    """Write ``data`` to a temporary name in the folder of ``path``, then rename it to ``path``.

    A program that reads ``path`` meanwhile sees the old file or the new one, never half of one, and a failure leaves
    neither a temporary file nor a change. A symbolic link is written through, as ``open`` would.

    Raises:
        OutputExistsError: ``path`` is there and ``overwrite`` is False, or it is no regular file (a folder, a device).
        DapsError: the folder is missing, not writable or full.
    """
    try:
        target = Path(os.path.realpath(path))
        # Renaming onto a device such as /dev/null would put a regular file in its place.
        if target.exists() and not target.is_file():
            raise OutputExistsError(f"{path}: is not a regular file; give the name of a file to write")
        if target.exists() and not overwrite:
            raise OutputExistsError(f"{path}: already exists and is not overwritten")
        _write_and_rename(target, data)
    except OutputExistsError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that holds a null character
        raise DapsError(f"{os.fspath(path)!r}: cannot be written ({reason_of(error)})") from error


def write_files_of_one_name(folder: Path, name: str, contents: Mapping[str, bytes]) -> list[Path]:
    """Write ``NAME.suffix`` for every suffix, as one report in several forms; returns their paths.

    ``folder`` is made where it is not there. Errors of :func:`write_bytes_atomically`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, data in contents.items():
        write_bytes_atomically(folder / f"{name}.{suffix}", data)
    return [folder / f"{name}.{suffix}" for suffix in contents]


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder next to ``target``, to be filled, which is renamed to it if the block ends without an error.

    Otherwise it is removed, so that a failure leaves nothing. Folders above ``target`` are made.
    """
    partial = target.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_and_rename(target: Path, data: bytes) -> None:
    # The tempfile module makes files that only their owner can read; "x" gives the permissions of any other new file.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(target)
    except BaseException:  # also when interrupted from the keyboard
        temporary.unlink(missing_ok=True)
        raise
