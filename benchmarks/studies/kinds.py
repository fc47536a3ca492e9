"""Motion of a kind: is it what was asked for, how far is it from real motion, and how good is it as motion.

Compared with real clips that no model was trained on, their reconstructions, and the uniform prior.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.generate.distances import kernel_distance
from benchmarks.reports import report, table, write_report
from benchmarks.studies.language import (
    KINDS,
    WINDOWS,
    Stretches,
    choose_some,
    classifier_of,
    cut_clips,
    diversity_of,
    encode_stretches,
    quality_of,
    statistics_of,
)
from daps_tokenizer import Codes, Generator, Tokenizer, sample_motion
from daps_tokenizer.codes.layouts import ClipLayout
from daps_tokenizer.motion.dataset import VALIDATION_CLIPS
from daps_tokenizer.motion.generation import BEFORE
from daps_tokenizer.motion.robots import robot_of
from train.motion import load_clips

SWEPT = tuple(itertools.product((0.0, 0.5, 1.0, 2.0), (0.5, 0.7, 0.9)))  # guidance, temperature
_STRIDE = 64  # frames between stretches of training clips
_HELD_OUT = {re.split(r"\d", name)[0] for name in VALIDATION_CLIPS}


def measure_kinds(
    generator: Generator, tokenizer: Tokenizer, data: Path, *, samples: int, seed: int = 0
) -> dict[str, Any]:
    """Everything in the report, of ``samples`` stretches of each kind."""
    robot, length = robot_of(tokenizer.config), tokenizer.config.input_shape[0]
    clips, frames, names = load_clips(data, robot), length * WINDOWS, list(KINDS)
    train = cut_clips({name: clip for name, clip in clips.items() if name not in VALIDATION_CLIPS}, frames, _STRIDE)
    held_out = cut_clips({name: clips[name] for name in VALIDATION_CLIPS}, frames, frames)
    held_out = choose_some(held_out, samples, np.random.default_rng(seed))
    judge = Judge(train, tokenizer)

    real_codes = encode_stretches(tokenizer, held_out.poses)
    rows = [
        judge.row("real, held out", held_out),
        judge.row("their reconstructions", Stretches(tokenizer.decode(real_codes), held_out.kinds)),
    ]
    asked = np.repeat(np.arange(len(names)), samples)

    def draw(**options: Any) -> Stretches:
        codes = sample_motion(
            generator, tokenizer, label=names, seconds=frames / 30, num_samples=samples, seed=seed, **options
        )
        return Stretches(tokenizer.decode(codes), asked)

    started = time.perf_counter()
    drawn = draw()
    spent = time.perf_counter() - started
    config = generator.config
    rows.append(judge.row(f"{config.name}, guidance {config.guidance:g}, temperature {config.temperature:g}", drawn))
    rows[-1]["bits_per_window"] = _bits(generator, real_codes.numpy(), [names[kind] for kind in held_out.kinds])
    prior = Generator.uniform(tokenizer).sample(num_samples=len(asked) * WINDOWS, seed=seed).numpy()
    rows.append(
        judge.row("uniform prior", Stretches(tokenizer.decode(_clips(tokenizer, prior)), asked), is_asked=False)
    )
    rows[-1]["bits_per_window"] = tokenizer.bits_per_item
    sweep = [
        judge.row(
            f"guidance {guidance:g}, temperature {temperature:g}", draw(guidance=guidance, temperature=temperature)
        )
        for guidance, temperature in SWEPT
    ]
    return {
        "rows": rows,
        "sweep": sweep,
        "samples": samples,
        "seconds_per_second": spent / (len(asked) * frames / 30),
    }


class Judge:
    """A classifier of kinds that was trained on real stretches, and these stretches to compare with."""

    def __init__(self, train: Stretches, tokenizer: Tokenizer) -> None:
        self.train, self.tokenizer = train, tokenizer
        real = self._known = statistics_of(train.poses, tokenizer)
        self.classify: Callable[[np.ndarray], np.ndarray] = classifier_of(train, tokenizer, real)
        self._centre, self._scale = real.mean(0), real.std(0) + 1e-6
        self._real = (real - self._centre) / self._scale

    def row(self, name: str, arm: Stretches, *, is_asked: bool = True) -> dict[str, Any]:
        """What is measured of stretches; where no kind was asked for, nothing can be recognised."""
        kinds, names = np.unique(arm.kinds), list(KINDS)
        right = self.classify(arm.poses) == arm.kinds
        own = (statistics_of(arm.poses, self.tokenizer) - self._centre) / self._scale
        distances = [kernel_distance(own[arm.kinds == kind], self._real[self.train.kinds == kind]) for kind in kinds]
        of_four = np.isin(kinds, [number for number, clips in enumerate(KINDS.values()) if {*clips} & _HELD_OUT])
        by_kind = [float(right[arm.kinds == kind].mean()) for kind in kinds]
        return {
            "motion": name,
            "stretches": len(arm.kinds),
            "recognised": float(np.mean(by_kind)) if is_asked else None,
            "recognised_of_four": float(np.mean(np.array(by_kind)[of_four])) if is_asked else None,
            "by_kind": {names[kind]: share for kind, share in zip(kinds, by_kind, strict=True)} if is_asked else {},
            "kernel_of_four": float(np.mean(np.array(distances)[of_four])),
            **quality_of(arm.poses, robot_of(self.tokenizer.config), self.tokenizer.config.input_shape[0]),
            "diversity": diversity_of(arm, self.tokenizer, self.train, self._known),
        }


def _bits(generator: Generator, codes: np.ndarray, labels: list[str]) -> float:
    """Of a window given its label and the window before, of codes (S, windows, N)."""
    followers = codes[:, 1:].reshape(-1, codes.shape[-1])
    told = {BEFORE: codes[:, :-1].reshape(-1, codes.shape[-1])}
    log_p = generator.log_prob(followers, np.repeat(labels, codes.shape[1] - 1).tolist(), conditions=told)
    return float(-log_p.mean() / math.log(2))


def _clips(tokenizer: Tokenizer, codes: np.ndarray) -> Codes:
    """Codes of windows (S · 4, N) as those of clips."""
    config = tokenizer.config
    layout = ClipLayout(config.input_shape[0] * WINDOWS, WINDOWS, 0, 30.0)
    values = codes.reshape(-1, WINDOWS, codes.shape[-1])
    return Codes(values, config.vocab_size, config.name, config.weights_sha256, layout)


_COLUMNS = (
    ("recognised_of_four", "recognised, of walk, run, dance, fight", ".0%"),
    ("recognised", "recognised, of six kinds", ".0%"),
    ("kernel_of_four", "KID × 1000", ".0f"),
    ("bits_per_window", "bits a window", ".0f"),
    ("foot_sliding", "foot sliding, cm/s", ".1f"),
    ("jerk", "jerk, m/s³", ".0f"),
    ("border", "joints at borders", ".2f"),
    ("diversity", "diversity", ".2f"),
)


def write_kinds(folder: Path, content: dict[str, Any]) -> list[Path]:
    """Write ``kinds_NAME.json`` and ``.md``; returns their paths."""

    def cell(row: dict[str, Any], key: str, form: str) -> str:
        value = row.get(key)
        if value is None or (key == "recognised" and len(row["by_kind"]) < len(KINDS)):
            return "–"
        return format(value * (1000 if key.startswith("kernel") else 1), form)

    def table_of(rows: list[dict[str, Any]]) -> str:
        columns = [each for each in _COLUMNS if any(row.get(each[0]) is not None for row in rows)]
        return table(
            ("motion", "stretches", *(title for _, title, _ in columns)),
            [(row["motion"], row["stretches"], *(cell(row, key, form) for key, _, form in columns)) for row in rows],
        )

    kinds = table(
        ("motion", *KINDS),
        [
            (row["motion"], *(f"{row['by_kind'][kind]:.0%}" if kind in row["by_kind"] else "–" for kind in KINDS))
            for row in content["rows"]
            if row["by_kind"]
        ],
    )
    text = report(
        f"Motion of a kind: {content['generator']}",
        [content["command"]],
        table_of(content["rows"]),
        f"Stretches of {WINDOWS} windows (4.3 s), {content['samples']} of each kind. The classifier is a ridge "
        "regression on means and standard deviations of features over a stretch, trained on the training clips. KID: "
        "kernel distance in these standardised statistics to training stretches of the kind, mean over the four kinds "
        "of which clips are held out. Bits a window: of held-out windows, given their kind and the window before. Foot "
        "sliding: of the slower of the feet below 8 cm. Joints at borders: how much they move between two frames at a "
        "border of windows, over elsewhere. Diversity: mean distance of two stretches of a kind, over that of training "
        "stretches. The uniform prior is asked for no kind; its rows are compared with each.",
        "## Recognised, by kind",
        kinds,
        "## Guidance and temperature",
        table_of(content["sweep"]),
        f"Drawing took {content['seconds_per_second']:.3f} s for a second of motion. Weights: {content['weights']}.",
        machine=content["machine"],
    )
    return write_report(folder, f"kinds_{content['generator']}", content, text)
