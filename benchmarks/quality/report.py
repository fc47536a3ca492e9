"""Quality as files: JSON with means and with every image, a Markdown table for people, a contact sheet to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.codecs import CODECS
from benchmarks.quality.contact_sheet import Panel, choose_rows, draw_sheet
from benchmarks.quality.measure import (
    SEARCHES,
    Candidate,
    choose_images,
    measure_candidate,
    measure_codecs,
    open_candidate,
    summarise_candidate,
)
from benchmarks.quality.records import Records
from benchmarks.reports import report, table, write_report
from daps_tokenizer.cli.common import progress_bar
from daps_tokenizer.data.datasets import Data, open_data
from daps_tokenizer.errors import InputError
from daps_tokenizer.evaluation.metrics import interval_text, with_interval
from daps_tokenizer.evaluation.perceptual import Perceptual
from daps_tokenizer.evaluation.timing import describe_machine
from daps_tokenizer.files import write_bytes_atomically
from daps_tokenizer.hub import open_model
from export.paper import nats_less_in_the_papers_units

_COLUMNS = {
    "log_p": "log p, nats",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "l2": "L2",
    "joint_error": "joints, degrees",
    "root_error": "root, cm",
    "site_error": "sites, cm",
    "foot_sliding": "foot sliding, cm/s",
    "foot_sliding_original": "of the original",
    "jerk": "jerk, m/s³",
    "jerk_original": "of the original",
    "log_q": "log q, nats",
}
_DIGITS = {name: 1 if name.startswith(("log", "jerk")) else 2 for name in _COLUMNS} | {"ssim": 4, "lpips": 4}


_MOTION_NOTE = (
    "Joints: mean absolute error of the joint angles. Root: mean distance from where it was in the window. Sites: of "
    "15 points of the body, relative to the root. Foot sliding: mean speed along the ground of feet that stand in the "
    "original. Jerk: mean third derivative of the sites' positions, a measure of smoothness."
)


@dataclass(frozen=True)
class QualityRequest:
    """What to measure: see the options of ``python -m benchmarks quality``."""

    models: tuple[str, ...]
    data: Path
    images: str | None
    codecs: bool
    best_of: tuple[int, ...]
    only: tuple[str, ...]
    seed: int
    threads: int


def run_quality(
    request: QualityRequest, work: Path, out: Path, *, name: str | None, command: str, perceptual: Perceptual | None
) -> list[Path]:
    """Measure what is missing, and write the report; returns the paths of its files.

    Args:
        request: what to measure.
        work: folder of what was measured of single images.
        out: folder of the report.
        name: of the report; the first model's if None.
        command: for the report.
        perceptual: LPIPS and FID, where they are wanted.

    Raises:
        InputError: models of images of different sizes, images that cannot be read, options that fit nothing.
    """
    configs = [open_model(model).config for model in request.models]
    for config in configs:
        if config.input_shape != configs[0].input_shape:
            raise InputError(
                f"models side by side must see images of one size, not {list(configs[0].input_shape)} and "
                f"{list(config.input_shape)}"
            )
    data = open_data(request.data, configs[0])
    images = choose_images(request.images, len(data))
    candidates = [
        open_candidate(model, data, work, best_of=request.best_of, only=request.only, seed=request.seed)
        for model in request.models
    ]
    codecs, max_bytes = None, -(-int(candidates[0].tokenizer.bits_per_item) // 8)
    with progress_bar(len(images) * (len(candidates) + request.codecs)) as show_done:
        for number, candidate in enumerate(candidates):
            done_before = number * len(images)
            measure_candidate(
                candidate,
                data,
                images,
                seed=request.seed,
                threads=request.threads,
                on_progress=lambda done, before=done_before: show_done(before + done),  # type: ignore[misc]
            )
        if request.codecs:
            protocol = {"data": data.description, "fit": data.fit, "max_bytes": max_bytes}
            codecs = Records(work / f"codecs-{max_bytes}-{Path(data.description).name}.jsonl", protocol)
            before = len(candidates) * len(images)
            measure_codecs(
                codecs,
                data,
                images,
                max_bytes=max_bytes,
                threads=request.threads,
                on_progress=lambda done: show_done(before + done),
            )
    content: dict[str, Any] = {
        "command": command,
        "machine": describe_machine(),
        "data": data.description,
        "images": request.images or "all",
        "items": len(images),
        "seed": request.seed,
        "models": {candidate.label: _describe(candidate) for candidate in candidates},
        "nats_less_in_the_papers_units": nats_less_in_the_papers_units(configs[0]),
        "results": {
            candidate.label: summarise_candidate(candidate, data, images, seed=request.seed, perceptual=perceptual)
            for candidate in candidates
        },
    }
    if codecs is not None:
        content |= {"max_bytes": max_bytes, "codecs": summarise_codecs(codecs, candidates[0], images, request.seed)}
    name = name or candidates[0].label
    paths = write_quality(out, name, content)
    paths.append(write_images(out / f"quality_{name}_images.json", candidates, codecs, images, data))
    if candidates[0].tokenizer.modality == "image":
        paths.append(write_sheet(work / f"quality_{name}.png", candidates, images, data))
    return paths


def _describe(candidate: Candidate) -> str:
    config = candidate.tokenizer.config
    return f"{config.bits_per_item:,.0f} bits, weights {config.weights_sha256[:12]}"


def summarise_codecs(records: Records, candidate: Candidate, images: Sequence[int], seed: int) -> dict[str, Any]:
    """For each codec how many images fit, and over those: means of PSNR and SSIM, and the PSNR of the model's codes."""
    results: dict[str, Any] = {}
    for codec in CODECS:
        fitting = [image for image in images if records.get(codec.name, image)]
        result: dict[str, Any] = {"fit": len(fitting)}
        if fitting:
            rows = [records.get(codec.name, image) for image in fitting]
            result["bytes"] = float(np.mean([row["bytes"] for row in rows]))
            for metric in ("psnr", "ssim"):
                result[metric] = with_interval(np.array([row[metric] for row in rows]), seed)
            result["codes_psnr"] = {
                way: float(evaluated.items["psnr"].mean()) for way, evaluated in candidate.collect(fitting).items()
            }
        results[codec.name] = result
    return results


def write_quality(folder: Path, name: str, content: dict[str, Any]) -> list[Path]:
    return write_report(folder, f"quality_{name}", content, _text(name, content))


def _text(name: str, content: dict[str, Any]) -> str:
    results = [(model, way, found) for model, ways in content["results"].items() for way, found in ways.items()]
    measured = [column for column in _COLUMNS if column in results[0][2]]
    titles = [_COLUMNS[column] for column in measured]
    extra = [column for column in ("lpips", "fid") if column in results[0][2]]
    gain_of, unit, digits = ("psnr_gain", "dB", 2) if "psnr" in measured else ("log_p_gain", "nats", 1)
    header = ["model", "codes", *titles, *(column.upper() for column in extra), "perplexity", "codes used"]
    header.append(f"gain, {unit}")
    rows = []
    for model, way, found in results:
        cells = [interval_text(found[column], _DIGITS[column]) for column in measured]
        cells += [f"{found['fid']:.2f}" if column == "fid" else interval_text(found[column], 4) for column in extra]
        gain = interval_text(found[gain_of], digits) if gain_of in found else "–"
        rows.append([model, way, *cells, f"{found['code_perplexity']:.1f}", found["codes_used"], gain])
    images = "psnr" in measured
    described = "; ".join(f"{model}: {text}" for model, text in content["models"].items())
    notes = [
        f"Means over {content['items']} items of {content['data']} (`--images {content['images']}`) with 95 % "
        f"bootstrap intervals; seed {content['seed']}. {described}.",
        f"{'PSNR is the mean of each image. ' if images else ''}log p is in standardised units"
        f"{_in_the_papers_units(content)}. "
        "Perplexity and codes used are of all positions together. Best of n keeps the sample with the best log p; "
        "local search makes one sweep or two, with two proposals; wide search two sweeps with four. "
        "Gains are over greedy codes of the same item.",
        *([] if images else [_MOTION_NOTE]),
        *_worse(content),
    ]
    if images and len(extra) < 2:
        missing = " and ".join(label for key, label in (("lpips", "LPIPS"), ("fid", "rFID")) if key not in extra)
        notes.append(f"{missing}: not measured.")
    codecs = _codec_table(content) if "codecs" in content else []
    title = f"Quality of {name}"
    return report(title, [content["command"]], table(header, rows), *notes, *codecs, machine=content["machine"])


def _in_the_papers_units(content: dict[str, Any]) -> str:
    less = content.get("nats_less_in_the_papers_units")
    return f", and {less:,.0f} nats less with the deviations that the paper's authors divide by" if less else ""


def _worse(content: dict[str, Any]) -> list[str]:
    """Whether search ever made what it improves worse than greedy codes have it."""
    objectives = {
        way: "squared_error" if search.objective == "squared_error" else "log_p" for way, search in SEARCHES.items()
    }
    counts = [
        f"{found['worse'][objectives[way]]} ({model}, {way})"
        for model, ways in content["results"].items()
        for way, found in ways.items()
        if way in objectives and "worse" in found
    ]
    return (
        [f"Items that a search left worse in its objective than greedy codes: {', '.join(counts)}."] if counts else []
    )


def _codec_table(content: dict[str, Any]) -> list[str]:
    ways = list(next(iter(content["results"].values())))
    header = [f"at most {content['max_bytes']:,} bytes", "images that fit", "mean bytes", "PSNR, dB", "SSIM"]
    header += [f"{way}, the same images, dB" for way in ways]
    rows: list[list[str]] = []
    for name, found in content["codecs"].items():
        count = f"{found['fit']} of {content['items']}"
        if not found["fit"]:
            rows.append([name, count, *["–"] * (len(header) - 2)])
            continue
        quality = [interval_text(found[metric], _DIGITS[metric]) for metric in ("psnr", "ssim")]
        same = [f"{found['codes_psnr'][way]:.2f}" for way in ways]
        rows.append([name, count, f"{found['bytes']:.0f}", *quality, *same])
    model = next(iter(content["results"]))
    note = (
        "Codecs by Pillow at the best quality whose whole file fits, found by bisection. Means are over the images "
        f"that fit, the last columns {model} on just these: an image that does not fit is a photograph the codec "
        "cannot store in that size at all."
    )
    return [table(header, rows), note]


def write_images(
    path: Path, candidates: Sequence[Candidate], codecs: Records | None, images: Sequence[int], data: Data
) -> Path:
    """Write what was measured of every image, a list for each metric in the order of ``images``; compact."""
    content: dict[str, Any] = {"data": data.description, "images": list(images), "models": {}}
    for candidate in candidates:
        content["models"][candidate.label] = {
            way: {
                metric: np.round(evaluated.items[metric], _DIGITS[metric]).tolist()
                for metric in ("log_p", "psnr", "ssim", "joint_error", "root_error")
                if metric in evaluated.items
            }
            for way, evaluated in candidate.collect(images).items()
        }
    if codecs is not None:
        content["codecs"] = {
            codec.name: [_rounded(codecs.get(codec.name, image).get("psnr")) for image in images] for codec in CODECS
        }
    write_bytes_atomically(path, (json.dumps(content, separators=(",", ":")) + "\n").encode())
    return path


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def write_sheet(path: Path, candidates: Sequence[Candidate], images: Sequence[int], data: Data) -> Path:
    """Write the best, median and worst images by the PSNR of the first model's last way, next to its first way."""
    found = [candidate.collect(images) for candidate in candidates]
    last = list(found[0])[-1]
    rows = []
    for name, place in choose_rows(found[0][last].items["psnr"]):
        original = data.read(np.array([images[place]]))
        row = [Panel(f"{name}: image {images[place]}", candidates[0].tokenizer.targets(original)[0])]
        for candidate, ways in zip(candidates, found, strict=True):
            for way in dict.fromkeys((next(iter(ways)), list(ways)[-1])):
                pixels = candidate.tokenizer.decode(ways[way].codes[place])
                caption = f"{candidate.label} {way} {ways[way].items['psnr'][place]:.2f} dB"
                row.append(Panel(caption, pixels))
        rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, draw_sheet(rows))
    return path
