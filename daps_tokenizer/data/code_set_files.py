"""The files of a code set as it grows: rows are appended to two of them, and a third says how much of them counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from daps_tokenizer.errors import CodesFileError, OutputExistsError
from daps_tokenizer.files import write_bytes_atomically

CODES, ITEMS, RECORD = "codes.npy", "items.jsonl", "dataset.json"
_PROGRESS = "progress.json"  # the record until all is done
_PARTIAL = ".partial"
_ABOUT = {"model", "weights_sha256", "vocab_size", "data", "fit", "items", "encoding", "seed"}
_STATE = {"done", "rows", "broken", "sizes", "row_shape"}
_OWN_NAMES = {CODES, ITEMS, RECORD, _PROGRESS, CODES + _PARTIAL, ITEMS + _PARTIAL}


class StoredRecord(NamedTuple):
    """What the code set in a folder says of itself, and whether it is whole."""

    record: dict[str, Any]
    is_whole: bool


def read_record(folder: Path, *, whole_only: bool = False) -> StoredRecord | None:
    """The code set in a folder; None where there is none.

    A set that is not complete yet comes before one that it replaces, which ``whole_only`` asks for.

    Raises:
        CodesFileError: its record cannot be read.
    """
    for name in (RECORD,) if whole_only else (_PROGRESS, RECORD):
        path = folder / name
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            complete = set(record) >= _ABOUT | _STATE
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, TypeError) as error:
            raise CodesFileError(f"{path}: cannot be read ({error}); expected the record of a code set") from error
        if not complete:
            raise CodesFileError(f"{path}: is not the record of a code set; remove it, or name another folder")
        return StoredRecord(record, name == RECORD)
    return None


class GrowingCodeSet:
    """A code set in the making; a context manager, so that its files are closed on every way out.

    ``done`` items were processed, ``rows`` of them have codes, ``broken`` are the others and why.
    """

    def __init__(
        self, folder: Path, record: dict[str, Any], found: StoredRecord | None, *, replace: bool = False
    ) -> None:
        """Begin a set, or resume one.

        Args:
            folder: where to; made where it is not there.
            record: what decides the codes.
            found: from :func:`read_record`, where this set was interrupted.
            replace: whether a set that is there makes way, once this one is whole.

        Raises:
            OutputExistsError: the folder holds something else.
            CodesFileError: the partial files are not what they were.
        """
        self._folder, self._record = folder, record
        self._type = np.min_scalar_type(record["vocab_size"] - 1)
        self._row_shape: list[int] | None = None
        self.done, self.rows, self.broken = 0, 0, dict[str, str]()
        sizes = [0, 0]
        if found is None:
            folder.mkdir(parents=True, exist_ok=True)
            there = {path.name for path in folder.iterdir()}
            if there - _OWN_NAMES or (there & {CODES, ITEMS} and not replace):
                raise OutputExistsError(f"{folder}: is not empty; name a folder that is for the codes alone")
        else:
            before = found.record
            self.done, self.rows, self.broken = before["done"], before["rows"], before["broken"]
            sizes, self._row_shape = before["sizes"], before["row_shape"]
        self._codes = _open_at(folder / (CODES + _PARTIAL), sizes[0])
        self._items = _open_at(folder / (ITEMS + _PARTIAL), sizes[1])

    def __enter__(self) -> GrowingCodeSet:
        return self

    def __exit__(self, *_: object) -> None:
        self._codes.close()
        self._items.close()

    def add(self, codes: np.ndarray | None, lines: Sequence[dict[str, Any]]) -> None:
        """Append rows of codes, where a batch has any, with a line for each; from now on they and ``done`` count."""
        if codes is not None:
            if self._row_shape is None:
                self._row_shape = list(codes.shape[1:])
                self._codes.write(self._header(0))
            self._codes.write(codes.astype(self._type).tobytes())
            self._items.write("".join(json.dumps(line) + "\n" for line in lines).encode())
            self.rows += len(codes)
        self._codes.flush()
        self._items.flush()
        state = {
            "done": self.done,
            "rows": self.rows,
            "broken": self.broken,
            "row_shape": self._row_shape,
            "sizes": [self._codes.tell(), self._items.tell()],
        }
        write_bytes_atomically(self._folder / _PROGRESS, (json.dumps(self._record | state, indent=1) + "\n").encode())

    def finish(self) -> None:
        """Give the files their names, the record last."""
        self._codes.seek(0)
        self._codes.write(self._header(self.rows))
        for file, name in ((self._codes, CODES), (self._items, ITEMS)):
            file.close()
            (self._folder / (name + _PARTIAL)).replace(self._folder / name)
        (self._folder / _PROGRESS).replace(self._folder / RECORD)

    def _header(self, rows: int) -> bytes:
        """The header of an ``.npy`` file of this many rows; NumPy leaves room for the number of rows to grow."""
        assert self._row_shape is not None
        header = BytesIO()
        described = {
            "descr": np.lib.format.dtype_to_descr(self._type),
            "fortran_order": False,
            "shape": (rows, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(header, described)
        return header.getvalue()


def _open_at(path: Path, size: int) -> BinaryIO:
    """A file to write to after its first ``size`` bytes; what comes after them was not noted, and is cut off."""
    file = path.open("r+b" if size else "w+b")
    if path.stat().st_size < size:
        file.close()
        raise CodesFileError(f"{path}: is {path.stat().st_size} bytes long, and was {size}; remove the folder")
    file.truncate(size)
    file.seek(size)
    return file
