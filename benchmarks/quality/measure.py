"""Quality of reconstructions: every way to encode, models and codecs side by side, image by image.

Images are independent of each other: each is read, encoded, measured and written down before the next, several side
by side on as many threads. So memory does not grow with their number, and a run can be split and resumed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.codecs import CODECS, Codec
from benchmarks.quality.records import Records, pack_codes, unpack_codes
from daps_tokenizer import LocalSearch, Tokenizer
from daps_tokenizer.data.datasets import Data
from daps_tokenizer.errors import InputError
from daps_tokenizer.evaluation.evaluate import Evaluated, describe_protocol, measure, ways_to_encode
from daps_tokenizer.evaluation.metrics import image_metrics, summarise
from daps_tokenizer.evaluation.perceptual import Perceptual
from daps_tokenizer.ways import Way, make_codes

SEARCHES = {
    "local search": LocalSearch(),
    "local search, two sweeps": LocalSearch(sweeps=2),
    "local search, squared error": LocalSearch(objective="squared_error"),
    "wide search, squared error": LocalSearch(objective="squared_error", proposals=4, sweeps=2),
}
_PERCEPTUAL_BATCH = 20
_CODES_AT_ONCE = 1024  # small images are measured in batches, as batches of them are what is fast


@dataclass(frozen=True)
class Candidate:
    """A model under its name in the report, the ways it encodes in, and what was measured of them."""

    label: str
    tokenizer: Tokenizer
    ways: dict[str, Way]
    records: Records

    def collect(self, images: Sequence[int]) -> dict[str, Evaluated]:
        """What was measured of these images, by the way to encode."""
        found = {}
        for way in self.ways:
            rows = [self.records.get(way, image) for image in images]
            metrics = [name for name in rows[0] if name != "codes"]
            values = {name: np.array([row[name] for row in rows], np.float64) for name in metrics}
            found[way] = Evaluated(values, np.stack([unpack_codes(row["codes"]) for row in rows]))
        return found


def open_candidate(
    model: str, data: Data, work: Path, *, best_of: Sequence[int], only: Sequence[str], seed: int
) -> Candidate:
    """Load a model and what was measured of it before.

    Args:
        model: a built-in name or a folder.
        data: the images.
        work: folder of the records.
        best_of: numbers of candidates to measure ``BestOf`` with.
        only: names of ways, where not all are wanted.
        seed: of samples.

    Raises:
        InputError: an unknown name in ``only``; records that depend on something else.
    """
    # One thread each, as images are measured side by side.
    tokenizer = Tokenizer.from_pretrained(model, num_threads=1)
    ways = ways_to_encode(tokenizer, best_of=best_of, searches=SEARCHES)
    for name in only:
        if name not in ways:
            raise InputError(f"--way must be one of {', '.join(ways)}, not {name!r}")
    protocol = describe_protocol(tokenizer, data, seed=seed)
    label = Path(model).name
    # Which machine measured, and how many images were asked for, changes nothing about the others.
    kept = {key: value for key, value in protocol.items() if key not in ("machine", "items", "batch")}
    records = Records(work / f"{label}-{protocol['weights_sha256'][:12]}-{Path(data.description).name}.jsonl", kept)
    return Candidate(label, tokenizer, {name: ways[name] for name in ways if not only or name in only}, records)


def measure_candidate(
    candidate: Candidate,
    data: Data,
    images: Sequence[int],
    *,
    seed: int,
    threads: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Measure what is missing of images: every metric of :mod:`daps_tokenizer.evaluation.evaluate` in every way.

    Samples are drawn with the seed + the number of the batch that an image is in, which for photographs is the image's
    own number; so the result does not depend on how a run was split (for small images: in pieces of whole batches).
    """
    size = max(1, _CODES_AT_ONCE // candidate.tokenizer.num_tokens)

    def run(numbers: tuple[int, ...]) -> None:
        inputs = data.read(np.array(numbers))
        for name, way in candidate.ways.items():
            if all(candidate.records.has(name, number) for number in numbers):
                continue
            codes = make_codes(candidate.tokenizer, inputs, way, seed=seed + numbers[0] // size).codes
            found = measure(candidate.tokenizer, inputs, codes)
            for row, number in enumerate(numbers):
                values = {metric: float(value[row]) for metric, value in found.items()}
                candidate.records.add(name, number, {**values, "codes": pack_codes(codes.numpy()[row])})

    batches = [tuple(group) for _, group in itertools.groupby(images, key=lambda number: number // size)]
    _run_all(run, batches, threads, on_progress)


def measure_codecs(
    records: Records,
    data: Data,
    images: Sequence[int],
    *,
    max_bytes: int,
    threads: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Measure what is missing: ``bytes``, ``psnr`` and ``ssim`` of each codec's best file that fits, nothing if none.

    Args:
        max_bytes: size of a file.
    """

    def run_codec(codec: Codec, number: int, image: np.ndarray) -> None:
        fitted = codec.fit(image, max_bytes)
        values: dict[str, Any] = {}
        if fitted is not None:
            metrics = image_metrics(image[None], fitted.pixels[None])
            values = {"bytes": len(fitted.content), **{name: float(value[0]) for name, value in metrics.items()}}
        records.add(codec.name, number, values)

    def run(numbers: tuple[int, ...]) -> None:
        missing = [codec for codec in CODECS if not records.has(codec.name, numbers[0])]
        if missing:
            (image,) = data.read(np.array(numbers))
            for codec in missing:
                run_codec(codec, numbers[0], image)

    _run_all(run, [(image,) for image in images], threads, on_progress)


def _run_all(
    run: Callable[[tuple[int, ...]], None],
    batches: list[tuple[int, ...]],
    threads: int,
    on_progress: Callable[[int], None],
) -> None:
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        try:
            for batch, _ in zip(batches, pool.map(run, batches), strict=True):
                done += len(batch)
                on_progress(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def summarise_candidate(
    candidate: Candidate, data: Data, images: Sequence[int], *, seed: int, perceptual: Perceptual | None
) -> dict[str, dict[str, Any]]:
    """Means over images, by the way to encode: see :meth:`Evaluated.summary`, and ``lpips`` and ``fid`` where measured.

    ``psnr_gain`` and ``log_p_gain`` are over greedy codes of the same image, ``worse`` is how many images have a lower
    log p and a larger squared error than with greedy codes.
    """
    results: dict[str, dict[str, Any]] = {}
    collected = candidate.collect(images)
    for way, evaluated in collected.items():
        items = dict(evaluated.items)
        fid = None
        if perceptual is not None:
            name = f"{candidate.label}: {way}"
            seen = [
                perceptual.observe(name, original, reconstruction)
                for original, reconstruction in _pairs(candidate.tokenizer, data, images, evaluated.codes)
            ]
            items |= {metric: np.concatenate([part[metric] for part in seen]) for metric in seen[0]}
            fid = perceptual.fid(name)
        results[way] = Evaluated(items, evaluated.codes).summary(candidate.tokenizer.vocab_size, seed)
        # Entropy of single codes, all positions together: the size of an ideal code that knows only these shares.
        results[way]["bits_per_code"] = math.log2(results[way]["code_perplexity"])
        if fid is not None:
            results[way]["fid"] = fid
        if way != "greedy" and "greedy" in collected:
            results[way] |= _compare(evaluated.items, collected["greedy"].items, seed)
    return results


def _compare(items: dict[str, np.ndarray], greedy: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    gains = {f"{name}_gain": items[name] - greedy[name] for name in ("log_p", "psnr") if name in items}
    worse = {
        "log_p": int((items["log_p"] < greedy["log_p"]).sum()),
        "squared_error": int((items["l2"] > greedy["l2"]).sum()),
    }
    return {**summarise(gains, seed), "worse": worse}


def _pairs(
    tokenizer: Tokenizer, data: Data, images: Sequence[int], codes: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Originals and reconstructions, a few at a time."""
    for start in range(0, len(images), _PERCEPTUAL_BATCH):
        rows = slice(start, start + _PERCEPTUAL_BATCH)
        yield tokenizer.targets(data.read(np.array(images[rows]))), tokenizer.decode(codes[rows])


def choose_images(text: str | None, count: int) -> list[int]:
    """Which of ``count`` images: a number (of first images) or a slice as in Python, for example 0:250 or ::4.

    Raises:
        InputError: neither, or no image is left.
    """
    parts = (text or str(count)).split(":")
    try:
        numbers = [int(part) if part else None for part in parts]
        chosen = list(range(count))[slice(*numbers)] if len(numbers) <= 3 else []
    except ValueError:
        chosen = []
    if not chosen:
        raise InputError(f"--images must be a number or a slice such as 0:250 or ::4 of {count} images, not {text!r}")
    return chosen
