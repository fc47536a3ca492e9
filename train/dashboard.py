"""One picture that tells how a run is doing: curves, code usage and reconstructions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from train.items import Items
from train.methods.base import Method

PICTURES = 8
Curves = tuple[tuple[str, tuple[str, ...]], ...]  # a title, and the metrics under it

CURVES: Curves = (
    ("log p(x|z), nats", ("log_p", "sampled_log_p", "greedy_log_p")),
    ("ELBO, nats", ("elbo",)),
    ("effective sample size", ("ess",)),
    ("η", ("eta",)),
    ("β", ("beta",)),
    ("entropy of q, nats", ("entropy",)),
    ("code usage (perplexity)", ("code_perplexity", "codes_in_batch")),
    ("PSNR, dB", ("sampled_psnr", "greedy_psnr")),
)


def draw_dashboard(path: Path, metrics_file: Path, curves: Curves, pictures: np.ndarray | None = None) -> None:
    """Draw curves of ``metrics_file`` to a PNG, four in a row, and below them pictures (H, W, C) if there are any."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(16, 10), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subfigures(2, 1, height_ratios=(3, 1))  # type: ignore[misc]
    for axes, (title, names) in zip(top.subplots(-(-len(curves) // 4), min(4, len(curves))).flat, curves, strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=name)
        axes.set_title(title)
        axes.set_xlabel("step")
        if axes.lines:
            axes.legend()
        if title == "log p(x|z), nats" and axes.lines:
            # The first steps are far below everything that follows.
            everything = np.concatenate([line.get_ydata() for line in axes.lines])
            finite = everything[np.isfinite(everything)]
            if finite.size:
                axes.set_ylim(bottom=float(np.quantile(finite, 0.1)) - 1.0)
    if pictures is not None:
        axes = bottom.subplots()
        axes.imshow(pictures.squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        axes.set_title("originals above, greedy reconstructions below")
    figure.savefig(path, dpi=70)


def pictures_of(method: Method, items: Items) -> np.ndarray | None:
    """The first items above their greedy reconstructions, (H, W, C) uint8; None where they are no images."""
    if method.model.config.modality != "image":
        return None
    pictured = items.read(np.arange(min(PICTURES, len(items))), seed=(0,))
    return np.concatenate([np.concatenate(list(pictures), axis=1) for pictures in _reconstruct(method, pictured)])


@torch.no_grad()
def _reconstruct(method: Method, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    was_training = method.training
    method.eval()
    model = method.model
    x = model.standardise(torch.from_numpy(items).to(model.mean.device))
    uniform = torch.zeros(len(items), model.config.num_tokens, device=x.device)
    mean = model.likelihood.moments(method.reconstruct(x, uniform, 0.0).parameters).mean
    method.train(was_training)
    return items, model.to_input_units(mean).cpu().numpy()
