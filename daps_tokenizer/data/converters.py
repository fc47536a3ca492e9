"""Codes in the formats that loaders of generative models read: parquet, webdataset, nanoGPT, RAR, LlamaGen.

Each writer reads the rows a few megabytes at a time, so memory does not grow with the data set. The folder that it
fills has its name when all of it is written.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.data.code_sets import CodeSet, Shards
from daps_tokenizer.errors import CodesError, CodesFileError, DapsError, InputError, OutputExistsError
from daps_tokenizer.files import new_folder
from daps_tokenizer.install import install_command

Format = Literal["parquet", "webdataset", "bin", "jsonl", "npy-folder"]

META = "meta.json"
UNKNOWN = -1  # the label of an item that has none
_CHUNK_BYTES = 4 << 20
_FILE_BYTES = 256 << 20  # of codes in one parquet or tar file, where the caller does not say how many files there are


class Chunk(NamedTuple):
    """Some rows in a row: the first one's number, codes (rows, N) or (rows, K, N), labels (rows,), names."""

    start: int
    codes: np.ndarray
    labels: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class Rows:
    """Codes of many items.

    Args:
        values: (rows, N) or (rows, K, N), of an unsigned type; may be on disk.
        labels: (rows,) int64, -1 where unknown; may be on disk; None where no item has one.
        classes: the names of the labels, where they are known.
        names: what each row was made of; called anew for each walk through the rows.
        about: model, weights_sha256, vocab_size and token_grid, and how the codes were made.
    """

    values: np.ndarray | Shards
    labels: np.ndarray | Shards | None
    classes: list[str] | None
    names: Callable[[], Iterable[str]]
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def vocab_size(self) -> int:
        """V; codes are 0 to V - 1."""
        size: int = self.about["vocab_size"]
        return size

    @property
    def num_classes(self) -> int:
        """How many labels there may be; 0 where no item has one."""
        if self.labels is None:
            return 0
        return len(self.classes) if self.classes is not None else int(np.asarray(self.labels).max()) + 1

    @property
    def row_bytes(self) -> int:
        """What the codes of a row take."""
        return math.prod(self.values.shape[1:]) * self.values.dtype.itemsize

    def parts(self, files: int | None) -> list[range]:
        """The rows of each of several files: of about 256 MB of codes each, where it is not said how many."""
        count = files or math.ceil(len(self) * self.row_bytes / _FILE_BYTES)
        if count > len(self):
            raise InputError(f"--files {count} is more than the {len(self)} rows; expected at most one file a row")
        edges = [len(self) * part // count for part in range(count + 1)]
        return [range(*pair) for pair in pairwise(edges)]

    def chunks(self, parts: Sequence[range], on_progress: Callable[[int], None]) -> Iterator[Iterator[Chunk]]:
        """For each part its rows, a few megabytes at a time; parts are one after the other and begin at row 0."""
        names = iter(self.names())
        size = max(1, _CHUNK_BYTES // self.row_bytes)

        def of(part: range) -> Iterator[Chunk]:
            for start in range(part.start, part.stop, size):
                stop = min(start + size, part.stop)
                labels = np.full(stop - start, UNKNOWN) if self.labels is None else self.labels[start:stop]
                chunk = Chunk(start, np.asarray(self.values[start:stop]), labels, list(islice(names, stop - start)))
                self._check(chunk)
                yield chunk
                on_progress(stop)

        return (of(part) for part in parts)

    def _check(self, chunk: Chunk) -> None:
        classes = math.inf if self.classes is None else len(self.classes)
        if chunk.codes.max() >= self.vocab_size or chunk.labels.min() < UNKNOWN or chunk.labels.max() >= classes:
            raise CodesFileError(f"after row {chunk.start:,}: codes or labels are out of range; the set is damaged")


def rows_of_set(code_set: CodeSet) -> Rows:
    """The rows of a code set; errors of :class:`~daps_tokenizer.data.code_sets.CodeSet`."""
    record = code_set.record
    keys = ("model", "weights_sha256", "vocab_size", "token_grid", "data", "fit", "encoding", "seed", "flip")
    about = {key: record.get(key) for key in keys}
    has_labels = record.get("labels_sha256") is not None

    def names() -> Iterator[str]:
        for line in code_set.items():
            yield f"{line['item']}, mirrored" if line.get("flipped") else line["item"]

    return Rows(code_set.values, code_set.labels if has_labels else None, code_set.classes, names, about)


def rows_of_files(files: Sequence[tuple[str, Codes]]) -> Rows:
    """The items of ``.daps`` files, each given with its name; tiles, windows and samples are rows of their own.

    Raises:
        CodesError: they are of different models.
    """
    (first_name, first), parts, names = files[0], list[np.ndarray](), list[str]()
    for name, codes in files:
        if _origin(codes) != _origin(first):
            raise CodesError(
                f"{name}: holds {_origin(codes)}, and {first_name} {_origin(first)}; expected codes of one model"
            )
        rows = codes.numpy().reshape(-1, codes.num_tokens)
        parts.append(rows.astype(np.min_scalar_type(codes.vocab_size - 1)))
        names += [name] if len(rows) == 1 else [f"{name}, row {row}" for row in range(len(rows))]
    about = {"model": first.model, "weights_sha256": first.weights_sha256, "vocab_size": first.vocab_size}
    return Rows(np.concatenate(parts), None, None, lambda: names, about)


def _origin(codes: Codes) -> str:
    return f"codes of {codes.model!r} with weights {codes.weights_sha256[:8]}, {codes.num_tokens} an item"


def convert(
    rows: Rows,
    to: Format,
    folder: Path,
    *,
    split: str = "train",
    files: int | None = None,
    replace: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Write rows to a folder, in one of these formats; all have a ``meta.json``.

    ``parquet``: ``data/train-00000-of-00001.parquet`` with the columns item, codes and label, and a dataset card;
    ``datasets.load_dataset(folder)`` reads it. ``webdataset``: ``train-000000.tar`` with ``KEY.token.npy`` and
    ``KEY.cls``. ``bin``: ``train.bin``, a start token and N codes for each row, uint16, as nanoGPT reads it. ``jsonl``:
    ``train.jsonl``, a line ``{"class_id": 0, "tokens": [...]}`` for each row, as RAR reads it. ``npy-folder``:
    ``NAME_codes/0.npy`` (1, N) and ``NAME_labels/0.npy`` (1,), both int64, as LlamaGen reads them, with NAME the
    folder's. Samples of one item share a row of ``parquet``, ``webdataset`` and ``npy-folder``, and follow one another
    in the others.

    Args:
        rows: what to write.
        to: the format.
        folder: where to; made here.
        split: what names of files begin with.
        files: how many files, for ``parquet`` and ``webdataset``; None: of about 256 MB of codes each.
        replace: whether an earlier conversion in ``folder`` makes way.
        on_progress: is told how many rows are written.

    Returns:
        What ``meta.json`` holds.

    Raises:
        OutputExistsError: the folder is there, or is not a conversion.
        InputError: more files than rows, or the libraries of the format are not installed.
        CodesError: there are no rows, or codes and start tokens do not fit into uint16.
        DapsError: the folder cannot be written to.
    """
    if not len(rows):
        raise CodesError("there are no rows to convert; every item of this code set was skipped")
    _check_free(folder, replace)
    meta: dict[str, Any] = {
        "converted_to": to,
        "split": split,
        "rows": len(rows),
        "num_tokens": int(rows.values.shape[-1]),
        **rows.about,
        **({} if rows.labels is None else {"num_classes": rows.num_classes, "classes": rows.classes}),
    }
    if rows.values.ndim == 3:
        meta["num_samples"] = int(rows.values.shape[1])
    try:
        with new_folder(folder) as partial:
            meta |= _WRITERS[to](_Job(rows, partial, folder.resolve().name, split, files, on_progress))
            (partial / META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
    except OSError as error:
        if isinstance(error, DapsError):
            raise
        raise DapsError(f"{folder}: cannot be written ({error.strerror})") from error
    return meta


def _check_free(folder: Path, replace: bool) -> None:
    if not folder.exists():
        return
    if not replace:
        raise OutputExistsError(f"{folder}: already exists; pass --force to replace it, or name another with -o")
    try:
        converted = "converted_to" in json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        converted = False
    if not converted:
        raise OutputExistsError(f"{folder}: was not written by `daps-tokenize convert`; name another folder with -o")


class _Job(NamedTuple):
    """What a writer writes, into which folder, what that will be called, and names and number of the files."""

    rows: Rows
    folder: Path
    name: str
    split: str
    files: int | None
    on_progress: Callable[[int], None]

    def chunks(self) -> Iterator[Chunk]:
        """All rows, a few megabytes at a time; for formats of one file."""
        if self.files is not None:
            raise InputError("--files is for parquet and webdataset; the other formats have names of their own")
        (chunks,) = self.rows.chunks([range(len(self.rows))], self.on_progress)
        return chunks


def _write_parquet(job: _Job) -> dict[str, Any]:
    try:
        import datasets
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(
            f"parquet needs the datasets library, which is not installed; install it with {install_command('datasets')}"
        ) from None
    rows = job.rows
    codes: Any = datasets.Value(rows.values.dtype.name)
    for size in reversed(rows.values.shape[1:]):
        codes = datasets.Sequence(codes, length=size)
    columns = {"item": datasets.Value("string"), "codes": codes}
    if rows.labels is not None:
        columns["label"] = datasets.ClassLabel(names=rows.classes) if rows.classes else datasets.Value("int64")
    schema = datasets.Features(columns).arrow_schema
    parts = rows.parts(job.files)
    (job.folder / "data").mkdir()
    for number, chunks in enumerate(rows.chunks(parts, job.on_progress)):
        path = job.folder / "data" / f"{job.split}-{number:05}-of-{len(parts):05}.parquet"
        with pq.ParquetWriter(path, schema) as writer:
            for chunk in chunks:
                array = pa.array(chunk.codes.ravel())
                for size in reversed(chunk.codes.shape[1:]):
                    array = pa.FixedSizeListArray.from_arrays(array, size)
                arrays = {"item": pa.array(chunk.names), "codes": array, "label": pa.array(chunk.labels)}
                writer.write_table(pa.table([arrays[name] for name in schema.names], schema=schema))
    (job.folder / "README.md").write_text(_card(job), encoding="utf-8")
    return {"files": len(parts)}


def _card(job: _Job) -> str:
    """The dataset card: what Hugging Face's loader and its website read first."""
    rows, about = job.rows, job.rows.about
    shape = " x ".join(map(str, rows.values.shape[1:]))
    made = "".join(f"- {key}: `{json.dumps(value)}`\n" for key, value in about.items())
    return f"""---
configs:
- config_name: default
  data_files:
  - split: {job.split}
    path: data/{job.split}-*.parquet
tags:
- discrete-codes
- daps-tokenizer
---

# {job.name}

{len(rows):,} rows of {shape} codes from 0 to {rows.vocab_size - 1}; ids from {rows.vocab_size} on are free for start
tokens, masks and the like. `item` says what a row was made of.

{made}
```python
from datasets import load_dataset
from daps_tokenizer import Tokenizer

rows = load_dataset("path/to/this/folder", split="{job.split}").with_format("numpy")
tok = Tokenizer.from_pretrained("{about["model"]}")
tok.decode(rows[:4]["codes"])
```

The licence of the codes is that of the data that they were made of; name it here before you share them.
"""


def _write_webdataset(job: _Job) -> dict[str, Any]:
    parts = job.rows.parts(job.files)
    for number, chunks in enumerate(job.rows.chunks(parts, job.on_progress)):
        with tarfile.open(job.folder / f"{job.split}-{number:06}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for chunk in chunks:
                for row, (codes, label) in enumerate(zip(chunk.codes, chunk.labels, strict=True), start=chunk.start):
                    _add(archive, f"{row:09}.token.npy", _npy(codes))
                    if job.rows.labels is not None:
                        _add(archive, f"{row:09}.cls", str(label).encode())
    return {"files": len(parts)}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _write_bin(job: _Job) -> dict[str, Any]:
    """The start token of a row is V + its label, or V + the number of classes where its label is not known."""
    rows, unknown = job.rows, job.rows.vocab_size + job.rows.num_classes
    if unknown >= 1 << 16:
        raise CodesError(f"{unknown + 1} codes and start tokens do not fit into the uint16 of bin; use another format")
    with (job.folder / f"{job.split}.bin").open("wb") as file:
        for chunk in job.chunks():
            start = np.where(chunk.labels == UNKNOWN, unknown, rows.vocab_size + chunk.labels)
            codes = chunk.codes.reshape(len(chunk.codes), -1, chunk.codes.shape[-1])
            starts = np.broadcast_to(start[:, None, None], (*codes.shape[:2], 1))
            file.write(np.concatenate([starts, codes], axis=-1).astype("<u2").tobytes())
    return {"num_ids": unknown + 1, "start_of_class_0": rows.vocab_size, "start_of_unknown": unknown, "dtype": "uint16"}


def _write_jsonl(job: _Job) -> dict[str, Any]:
    with (job.folder / f"{job.split}.jsonl").open("w", encoding="utf-8") as file:
        for chunk in job.chunks():
            for codes, label in zip(chunk.codes, chunk.labels.tolist(), strict=True):
                for sample in codes.reshape(-1, codes.shape[-1]).tolist():
                    file.write(json.dumps({"class_id": label, "tokens": sample}) + "\n")
    return {}


def _write_npy_folder(job: _Job) -> dict[str, Any]:
    codes, labels = (job.folder / f"{job.name}_{what}" for what in ("codes", "labels"))
    codes.mkdir()
    labels.mkdir()
    for chunk in job.chunks():
        for row, values in enumerate(chunk.codes.astype(np.int64), start=chunk.start):
            (codes / f"{row}.npy").write_bytes(_npy(values[None]))
            (labels / f"{row}.npy").write_bytes(_npy(chunk.labels[row - chunk.start][None]))
    return {"codes": codes.name, "labels": labels.name}


_WRITERS: dict[Format, Callable[[_Job], dict[str, Any]]] = {
    "parquet": _write_parquet,
    "webdataset": _write_webdataset,
    "bin": _write_bin,
    "jsonl": _write_jsonl,
    "npy-folder": _write_npy_folder,
}
