"""``python -m benchmarks masked``: the network of a flow, drawn from by confidence instead of by Euler steps.

As in MaskGIT (Chang et al., 2022, Section 3.2) all codes are drawn in every step, the most confident are kept, and
more are kept from step to step. What is not kept is noise again: this network never saw a mask, it knows uniform codes.
Its time is the share of codes that are kept, which in a flow is the share of the data's codes.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks.generate.command import AT_ONCE, SEED, Judge
from benchmarks.reports import report, table, write_report
from daps_tokenizer import Tokenizer
from daps_tokenizer.model.generators import FlowTransformer, flow_step, guide
from daps_tokenizer.model.sampling import draw_by_cdf, sharpen

_TEMPERATURE = torch.tensor(1.0)


def euler_codes(
    network: FlowTransformer, labels: Tensor, guidance: Tensor, steps: int, random: torch.Generator
) -> Tensor:
    """What ``Generator.sample`` draws: int64 (B, N) for labels (G, B), see :func:`flow_step`."""
    codes = _noise(network, labels, random)
    for step in range(steps):
        uniform = torch.rand(codes.shape, generator=random)
        codes = flow_step(
            network, codes, torch.tensor(step), torch.tensor(steps), uniform, labels, guidance, _TEMPERATURE
        )
    return codes


def masked_codes(
    network: FlowTransformer, labels: Tensor, guidance: Tensor, steps: int, noise: float, random: torch.Generator
) -> Tensor:
    """Codes int64 (B, N), kept by confidence, an equal number more in each step.

    Args:
        network: gives p, of all codes.
        labels: (G, B), as of :func:`flow_step`.
        guidance: see :func:`guide`.
        steps: of the network.
        noise: times Gumbel noise is added to log p of what was drawn, falling to 0 at the last step; 0 keeps the
            most probable.
        random: of codes and of the noise.
    """
    codes = _noise(network, labels, random)
    kept = torch.zeros(codes.shape, dtype=torch.bool)
    for step in range(steps):
        rows = codes.expand(len(labels), -1, -1).flatten(0, 1)
        share = kept.float().mean()
        logits = network(rows, share.expand(len(rows)), labels.flatten()).float()
        probabilities = sharpen(guide(logits.unflatten(0, labels.shape), guidance), _TEMPERATURE)
        drawn = torch.where(kept, codes, draw_by_cdf(probabilities, torch.rand(codes.shape, generator=random)))
        confidence = probabilities.gather(-1, drawn[..., None])[..., 0].log()
        gumbel = -torch.empty(codes.shape).exponential_(generator=random).log()
        confidence = (confidence + noise * (1 - (step + 1) / steps) * gumbel).masked_fill(kept, torch.inf)
        count = round(codes.shape[1] * (step + 1) / steps)
        kept = torch.zeros_like(kept).scatter_(1, confidence.argsort(1, descending=True)[:, :count], True)
        codes = torch.where(kept, drawn, _noise(network, labels, random))
    return codes


def _noise(network: FlowTransformer, labels: Tensor, random: torch.Generator) -> Tensor:
    config = network.config
    return torch.randint(config.vocab_size, (labels.shape[1], config.num_tokens), generator=random)


@torch.no_grad()
def measure_masked(
    judge: Judge,
    tokenizer: Tokenizer,
    network: FlowTransformer,
    items: int,
    steps: tuple[int, ...],
    noises: tuple[float, ...],
) -> list[dict[str, Any]]:
    """A row for Euler steps and for each noise, at each number of steps; as many images of each label."""
    config = network.config
    asked = torch.arange(items) % max(1, len(config.labels))
    labels = torch.stack([asked, torch.full_like(asked, config.no_label)])
    guidance = torch.tensor(config.guidance)
    rows = []
    for count in steps:
        for noise in (None, *noises):
            codes, seconds = [], 0.0
            for start in range(0, items, AT_ONCE):
                part, random = labels[:, start : start + AT_ONCE], torch.Generator().manual_seed(SEED + start)
                begun = time.perf_counter()
                if noise is None:
                    codes.append(euler_codes(network, part, guidance, count, random))
                else:
                    codes.append(masked_codes(network, part, guidance, count, noise, random))
                seconds += time.perf_counter() - begun
            images = tokenizer.decode(torch.cat(codes).numpy().astype(np.int32))
            name = "Euler steps" if noise is None else f"by confidence, noise {noise:g}"
            row = judge.row(name, images, asked.numpy(), nearest=False)
            rows.append(row | {"steps": count, "noise": noise, "samples_per_second": items / seconds})
            click.echo(f"{name}, {count} steps: accuracy {row['accuracy']:.3f}", err=True)
    return rows


def write_masked(folder: Path, content: dict[str, Any]) -> list[Path]:
    """Write ``masked_GENERATOR.json`` and ``.md``; returns their paths."""
    header = ("how codes are drawn", "steps", "accuracy of the classifier", "Fréchet distance", "KID × 1000")
    rows = [
        (
            row["images"],
            row["steps"],
            f"{row['accuracy']:.1%}",
            f"{row['frechet']:.2f}",
            f"{1000 * row['kernel']:.1f}",
            f"{row['precision']:.2f}",
            f"{row['recall']:.2f}",
            f"{row['samples_per_second']:.1f}",
        )
        for row in content["rows"]
    ]
    text = report(
        f"Codes of {content['generator']}, drawn by confidence",
        [content["command"]],
        table((*header, "precision", "recall", "samples/s"), rows),
        f"{content['items']} images a row, as many of each class, with the generator's guidance; seed {SEED} alone. By "
        "confidence: all codes are drawn in each step and the most confident are kept (MaskGIT); noise is that of the "
        "confidence. Samples a second are of one core and PyTorch. The columns are those of `python -m benchmarks "
        f"generate`; its classifier is right on {content['classifier_accuracy']:.1%} of the test images of "
        f"{content['data']}.",
        machine=content["machine"],
    )
    return write_report(folder, f"masked_{content['generator']}", content, text)
