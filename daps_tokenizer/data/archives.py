"""Reading files that may be damaged, NPZ and others: what is wrong with one is an error of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.npyio import NpzFile

from daps_tokenizer.errors import DapsError, InputError, reason_of

# An archive is unpacked to 64 MB, and to as much again as 50 times its size.
_ALWAYS_BYTES, _MOST_RATIO = 2**26, 50


def read_npz(file: Path | BinaryIO, *names: str, source: str, expected: str) -> dict[str, np.ndarray]:
    """Read arrays of an NPZ archive, without pickles.

    Args:
        file: its path, or its content opened in binary mode.
        names: of the arrays that are wanted, or all.
        source: what errors call it.
        expected: what errors say it should have been.

    Raises:
        InputError: it cannot be read, is damaged or no archive, or has no array of a name.
    """
    with reading(source, expected):
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, NpzFile):
            raise InputError(f"{source}: is one array and not an NPZ archive; expected {expected}")
        with archive:
            members = archive.zip.infolist()  # type: ignore[union-attr]  # it is None once it is closed
            packed, unpacked = sum(m.compress_size for m in members), sum(m.file_size for m in members)
            if unpacked > _ALWAYS_BYTES + _MOST_RATIO * packed:
                raise InputError(
                    f"{source}: unpacks {packed:,} bytes to {unpacked:,}, more than {_MOST_RATIO} times as many; "
                    f"expected {expected}"
                )
            # What is no array in an archive comes as bytes.
            return {name: np.asarray(archive[name]) for name in names or archive.files}


def read_opened(file: Any, source: str) -> bytes:
    """Everything from the current position of an open file to its end.

    Raises:
        InputError: it is opened as text.
    """
    try:
        content = file.read()
    except UnicodeDecodeError:
        content = ""
    if not isinstance(content, bytes):
        raise InputError(f"{source}: is opened as text; expected a file opened in binary mode")
    return content


@contextmanager
def reading(source: Path | str, expected: str) -> Iterator[None]:
    """Say which file is to blame, and what it should have been: whatever is raised becomes an :class:`InputError`."""
    try:
        yield
    except DapsError:
        raise
    except FileNotFoundError:
        raise InputError(f"{source}: no such file; expected {expected}") from None
    except Exception as error:  # readers of archives and images meet damaged files with errors of almost any type
        raise InputError(f"{source}: cannot be read ({reason_of(error)}); expected {expected}") from error
