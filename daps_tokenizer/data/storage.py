"""Files wherever they are: on the disk, or in an object store that fsspec reads, such as s3://, gs:// or hf://."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from daps_tokenizer.errors import DapsError, InputError, reason_of
from daps_tokenizer.files import open_regular_file
from daps_tokenizer.install import install_command

Entry = tuple[str, int]  # what records call an item or file, or its path; its bytes, −1 if not known
_UNBOUNDED = 2**63
_MAGIC = ("*", "?", "[")


class SourceError(InputError):
    """An item was listed and cannot be fetched now: it is gone, or its storage fails."""


def is_remote(path: str) -> bool:
    """Whether a path is in an object store."""
    return "://" in path


def list_files(path: str) -> list[Entry]:
    """The regular files that a path names, in the order of their names: itself, a folder's to any depth, a pattern's.

    Links are followed, but not to a folder that they are in. Those in a folder that lead to nothing are listed, so that
    whoever reads them names them. Pipes, devices and sockets are left out.

    Raises:
        InputError: nothing is there, a folder cannot be listed, or the storage cannot be reached.
    """
    if is_remote(path):
        found = _list_remote(path)
    elif os.path.lexists(path) or not any(mark in path for mark in _MAGIC):
        found = _list_local(path)
    else:
        found = [entry for match in glob.glob(path, recursive=True) for entry in _list_local(match)]  # noqa: PTH207
    if not found:
        raise InputError(f"{path}: no such file or folder, or nothing in it; expected files, a folder or a pattern")
    return sorted(set(found))


def base_of(path: str) -> str:
    """The folder above the one that a path names, a pattern's up to its first mark: names of items begin there."""
    parts = path.rstrip("/").split("/")
    if is_remote(path) or not os.path.lexists(path):
        plain = next((place for place, part in enumerate(parts) if any(mark in part for mark in _MAGIC)), len(parts))
        parts = parts[:plain]
    return "/".join(parts[:-1])


def below(base: str, path: str) -> str:
    """A path from a folder on; the whole path of what does not lie there."""
    return path.removeprefix(base + "/") if base else path


@contextmanager
def open_file(path: str, *, most_bytes: int | None = None) -> Iterator[BinaryIO]:
    """A regular file or a remote one, to be read; of a size that is bounded.

    Raises:
        SourceError: it is gone, or its storage fails.
        InputError: it is larger, or no regular file.
    """
    try:
        if not is_remote(path):
            with open_regular_file(path, most_bytes=_UNBOUNDED if most_bytes is None else most_bytes) as file:
                yield file
            return
        with _file_system(path).open(path, "rb", cache_type="readahead") as file:
            if most_bytes is not None and file.size > most_bytes:
                raise InputError(f"{path}: is {file.size:,} bytes long; expected at most {most_bytes:,}")
            yield file
    except DapsError:
        raise
    except Exception as error:  # an object store's client raises errors of its own
        raise SourceError(f"{path}: cannot be read ({reason_of(error)}); expected the file that was there") from error


def _list_local(path: str) -> list[Entry]:
    try:
        about = os.stat(path)  # noqa: PTH116 - twice as fast as Path.stat
    except OSError:
        return []
    if not stat.S_ISDIR(about.st_mode):
        return [(path, about.st_size)] if stat.S_ISREG(about.st_mode) else []
    return list(_files_below(path, {(about.st_dev, about.st_ino)}))


def _files_below(folder: str, above: set[tuple[int, int]]) -> Iterator[Entry]:
    """The files of a folder to any depth; ``above`` are the folder and those that it is in, by device and inode."""
    try:
        with os.scandir(folder) as places:
            found = list(places)
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({reason_of(error)})") from error
    for place in found:
        try:
            about = place.stat()
        except OSError:  # a link that leads to nothing
            yield place.path, 0
            continue
        identity = (about.st_dev, about.st_ino)
        if stat.S_ISREG(about.st_mode):
            yield place.path, about.st_size
        elif stat.S_ISDIR(about.st_mode) and identity not in above:
            yield from _files_below(place.path, above | {identity})


def _list_remote(path: str) -> list[Entry]:
    try:
        system = _file_system(path)
        if any(mark in path for mark in _MAGIC):
            start = base_of(path)
            found = system.find(start, detail=True)
            pattern = system._strip_protocol(path)
            found = {name: about for name, about in found.items() if fnmatch.fnmatchcase(name, pattern)}
        else:
            found = system.find(path, detail=True)
        base = base_of(path)
        return [(_address(system, base, name), int(about.get("size") or -1)) for name, about in found.items()]
    except DapsError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be listed ({reason_of(error)})") from error


def _address(system: Any, base: str, name: str) -> str:
    """The address of a file, which begins as ``base`` does: fsspec has several for one place, as gs:// and gcs://."""
    above = f"{system._strip_protocol(base)}/" if is_remote(base) else ""
    return f"{base}/{name.removeprefix(above)}" if above and name.startswith(above) else system.unstrip_protocol(name)


def _file_system(path: str) -> Any:
    protocol = path.partition("://")[0]
    try:
        import fsspec

        return fsspec.core.url_to_fs(path)[0]
    except ImportError as error:
        raise InputError(
            f"{path}: reading {protocol}:// needs a package that is not installed ({reason_of(error)}); install it, "
            f"for s3:// with {install_command('s3')}"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path}: {reason_of(error)}; expected a file, a folder, or an address such as s3://"
        ) from error
