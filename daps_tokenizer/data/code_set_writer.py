"""Encoding the items of a dataset into a code set: all of them, or those of one shard."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from daps_tokenizer.data.code_set_files import (
    FORMAT,
    WHOLE,
    GrowingCodeSet,
    Shard,
    ShardFiles,
    StoredRecord,
    read_record,
    share_record,
    writing,
)
from daps_tokenizer.data.code_sets import changes, prepare, read_lines
from daps_tokenizer.data.datasets import ArrayData, Data, ImageFiles
from daps_tokenizer.data.storage import SourceError
from daps_tokenizer.errors import InputError, OutputExistsError
from daps_tokenizer.search.best_of import BestOf
from daps_tokenizer.tokenizer import Tokenizer
from daps_tokenizer.ways import Sampled, Way, describe_way, make_codes

BATCH = 64  # items that are read ahead and encoded together
_READERS = 8  # threads that load the next batch while one is encoded
_SHOWN = 3
_SEEDS = 2**64  # for each seed of a set, one for every item
_MIRRORED = 2**63  # and from here on one for every mirror image


class CodeSetReport(NamedTuple):
    """Rows of the set or shard, items that were skipped, and how many items this call processed."""

    rows: int
    skipped: int
    done_now: int


def write_code_set(
    tokenizer: Tokenizer,
    data: Data,
    folder: Path,
    way: Way = None,
    *,
    seed: int = 0,
    flip: bool = False,
    shard: Shard = WHOLE,
    replace: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> CodeSetReport:
    """Encode every item of a dataset or of a shard of it, or those that an interrupted call has not reached.

    The codes of an item do not depend on the shard and on the batch that it is in: samples are drawn with a seed that
    is made of ``seed`` and the item's number.

    Args:
        tokenizer: what encodes.
        data: items, read by several threads in batches of 64. One that cannot be read is skipped, and reported.
        folder: where to; made where it is not there. Codes are (rows, N), or (rows, K, N) of K samples, of the smallest
            unsigned type that holds every code.
        way: to make codes, see :func:`~daps_tokenizer.ways.make_codes`.
        seed: of what is drawn, that of ``BestOf`` included.
        flip: whether each image is followed by a row of its mirror image.
        shard: which part of the items; the other parts may be written at the same time, by other processes.
        replace: whether another code set in the folder makes way, once the new one is whole. Shards are not replaced.
        on_progress: is told how many items are done: those of an interrupted call first, then after each batch.

    Raises:
        OutputExistsError: the folder holds something else, or codes that were made in another way or of other items.
        InUseError: another process writes the set or the shard.
        CodesFileError: what an interrupted call left there is damaged.
        InputError: no item can be read, or their storage fails.
        DapsError: the folder cannot be written to.
    """
    if flip and tokenizer.modality != "image":
        raise InputError("flip is for images; this model is of motion")
    record = _describe(tokenizer, data, way, seed=seed, flip=flip, shards=shard.count)
    samples = [way.num_samples] if isinstance(way, Sampled) and way.num_samples is not None else []
    items = shard.items(len(data))
    with writing(folder, shard):
        found = _prepare(folder, shard, record, data, replace=replace)
        if found is not None and found.is_whole:
            return CodeSetReport(found.record["rows"], found.record["skipped"], 0)
        with (
            GrowingCodeSet(folder, shard, record, [*samples, tokenizer.num_tokens], found, replace=replace) as growing,
            ThreadPoolExecutor(_READERS) as readers,
        ):
            first = growing.done
            on_progress(first)
            encode = _Encoder(tokenizer, way, seed, flip)
            reason = _grow(data, items, growing, readers, encode, on_progress)
            if growing.rows == 0 and shard.count == 1:
                raise InputError(
                    f"{data.description}: none of its {len(data)} items can be read ({reason or 'there are none'})"
                )
            growing.finish()
    return CodeSetReport(growing.rows, growing.skipped, len(items) - first)


class _Encoder(NamedTuple):
    tokenizer: Tokenizer
    way: Way
    seed: int
    flip: bool

    def rows(self, items: np.ndarray, numbers: list[int]) -> np.ndarray:
        """The rows of items (B, *input_shape), one each, or two where their mirror images are encoded too."""
        if self.flip:
            items = np.stack([items, items[:, :, ::-1]], axis=1).reshape(-1, *items.shape[1:])
            numbers = [number for item in numbers for number in (item, _MIRRORED + item)]
        samples = (self.way.num_samples or 1) if isinstance(self.way, Sampled) else 1
        at_once = max(1, 2 * BATCH // samples)  # each sample takes the memory of an item
        parts = [slice(first, first + at_once) for first in range(0, len(items), at_once)]
        return np.concatenate([self._encode(items[part], numbers[part]) for part in parts])

    def _encode(self, items: np.ndarray, numbers: list[int]) -> np.ndarray:
        draws = isinstance(self.way, Sampled | BestOf)
        seeds = [self.seed * _SEEDS + number for number in numbers] if draws else None
        return make_codes(self.tokenizer, items, self.way, seed=seeds).codes.numpy()


def _describe(tokenizer: Tokenizer, data: Data, way: Way, *, seed: int, flip: bool, shards: int) -> dict[str, Any]:
    """What decides the codes of a set: two of the same record are the same."""
    config, labels = tokenizer.config, data.labels
    return {
        "format": FORMAT,
        "model": config.name,
        "weights_sha256": config.weights_sha256,
        "vocab_size": config.vocab_size,
        "num_tokens": config.num_tokens,
        "token_grid": config.token_grid and list(config.token_grid),
        "first_free_id": config.vocab_size,
        "data": data.description,
        "fit": data.fit,
        "items": len(data),
        "items_sha256": hash_items(data),
        "labels_sha256": None if labels is None else hashlib.sha256(np.asarray(labels, "<i8").tobytes()).hexdigest(),
        "classes": None if data.classes is None else list(data.classes),
        "encoding": describe_way(way),
        "seed": seed,
        "flip": flip,
        "shards": shards,
    }


def hash_items(data: Data) -> str:
    """Of the names and sizes of files, or of all of what is in memory."""
    digest = hashlib.sha256()
    if isinstance(data, ArrayData):
        digest.update(data.array.tobytes())
    containers = data.source.containers() if isinstance(data, ImageFiles) else ()
    for name, size in itertools.chain(containers, data.entries()):
        digest.update(f"{json.dumps(name)} {size}\n".encode())
    return digest.hexdigest()


def _prepare(folder: Path, shard: Shard, record: dict[str, Any], data: Data, *, replace: bool) -> StoredRecord | None:
    """As :func:`~daps_tokenizer.data.code_sets.prepare`, of shards too, and saying how a list of items has changed.

    A set of which nothing could be read is begun again.
    """
    before = read_record(folder, shard) if shard.count == 1 else None
    if shard.count > 1:
        common = share_record(folder, shard, record)
        if changed := changes(common, record):
            detail = _explain(folder, common, data) if "items" in changed else ""
            raise OutputExistsError(
                f"{folder}: holds shards of another run, which differs in {', '.join(changed)}{detail}; "
                "name another folder"
            )
    if before is not None and not replace and before.record["items_sha256"] != record["items_sha256"]:
        raise OutputExistsError(
            f"{folder}: holds codes of a list of items that has changed since{_explain(folder, before.record, data)}; "
            "pass --force to replace them, or name another folder"
        )
    found = prepare(folder, shard, record, replace=replace)
    return None if found is not None and not found.is_whole and found.record["rows"] == 0 else found


def _explain(folder: Path, record: dict[str, Any], data: Data) -> str:
    """How the list of items differs from what a set was made of, as far as its files say: in brackets."""
    before: dict[str, int] = {}
    for index in range(record["shards"]):
        files = ShardFiles.of(folder, Shard(index, record["shards"]))
        for path in (files.items, files.skipped):
            partial = path.with_name(path.name + ".partial")
            for line in read_lines(partial if partial.exists() else path) if partial.exists() or path.exists() else ():
                before[line["item"]] = line.get("bytes", -1)
    now = dict(data.entries())
    gone = [name for name in before if name not in now]
    resized = [name for name, size in before.items() if name in now and now[name] != size]
    new = [name for name in now if name not in before] if len(before) == record["items"] else []
    found = [
        f"{len(names):,} {word} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
        for names, word in ((gone, "gone"), (new, "new"), (resized, "of another size"))
        if names
    ]
    if len(now) != record["items"]:
        found.append(f"there were {record['items']:,} and are {len(now):,}")
    return f": {', '.join(found)}" if found else ": of those that are not encoded yet"


def _grow(
    data: Data,
    items: range,
    growing: GrowingCodeSet,
    readers: ThreadPoolExecutor,
    encode: _Encoder,
    on_progress: Callable[[int], None],
) -> str:
    """Encode what is not done; returns why the first item was skipped."""
    labels, reason = data.labels, ""
    entries = islice(data.entries(), items.start + growing.done, None)
    upcoming = _read(data, items[growing.done : growing.done + BATCH], readers)
    for start in range(growing.done, len(items), BATCH):
        numbers, loaded = items[start : start + BATCH], [future.result() for future in upcoming]
        upcoming = _read(data, items[start + BATCH : start + 2 * BATCH], readers)
        good, lines, skipped = dict[int, np.ndarray](), [], []
        for number, (name, size), item in zip(numbers, islice(entries, len(numbers)), loaded, strict=True):
            line: dict[str, Any] = {"item": name} | ({"bytes": size} if size >= 0 else {})
            if isinstance(item, InputError):
                skipped.append(line | {"reason": str(item)})
                continue
            good[number] = item
            label = -1 if labels is None else int(labels[number])
            line |= {"label": label} if label >= 0 else {}
            lines += [line, line | {"flipped": True}] if encode.flip else [line]
        if all(isinstance(item, SourceError) for item in loaded):
            raise SourceError(
                f"{data.description}: nothing can be read any more ({loaded[0]}); the same command resumes"
            )
        reason = reason or next((line["reason"] for line in skipped), "")
        rows = (
            encode.rows(np.concatenate(list(good.values())), list(good))
            if good
            else np.empty((0, *growing.row_shape), np.uint8)
        )
        of_rows = np.array([line.get("label", -1) for line in lines], np.int64)
        growing.add(rows, of_rows, lines, skipped, done=start + len(numbers))
        on_progress(growing.done)
    return reason


def _read(data: Data, numbers: range, readers: ThreadPoolExecutor) -> list[Future[np.ndarray | InputError]]:
    """Begin to read items; in place of one that cannot be read there is the error."""

    def read(number: int) -> np.ndarray | InputError:
        try:
            return data.read(np.array([number]))
        except InputError as error:
            return error
        except MemoryError:
            return InputError(f"item {number}: takes more memory than there is")

    return [readers.submit(read, number) for number in numbers]
