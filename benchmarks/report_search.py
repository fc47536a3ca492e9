"""What search gains and costs, and what training with it does, as JSON, table and plot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.markdown import png_of, report, table, write_report
from benchmarks.search import Found

_KINDS = ("greedy", "sampled", "searched")


def write_search(folder: Path, model: str, found: list[Found], content: dict[str, Any]) -> list[Path]:
    """Write ``search_MODEL.json``, ``.md`` and ``.png``; returns their paths.

    ``content``: ``command``, ``machine``, ``data``, ``items`` and ``weights_sha256``.
    """
    greedy, *_ = found
    header = ("codes", "decodes", "ms", "log p, nats", "gained", "PSNR, dB", "gained")
    rows = []
    for row in found:
        decibels = (
            ("–", "–")
            if row.psnr is None or greedy.psnr is None
            else (f"{row.psnr:.2f}", f"{row.psnr - greedy.psnr:+.2f}")
        )
        nats = f"{row.log_p:.1f}", f"{row.log_p - greedy.log_p:+.1f}"
        rows.append((row.name, f"{row.decodes:.0f}", f"{1e3 * row.seconds:.1f}", *nats, *decibels))
    text = report(
        f"Search with {model}",
        [content["command"]],
        table(header, rows),
        f"Means over {content['items']} items of {content['data']}; weights {content['weights_sha256'][:12]}. Decodes "
        "and milliseconds of processor time are of one item, encoding included, one thread, in batches. Nearest codes: "
        "the proposals are the nearest vectors of the generative model's code table, not q's most probable codes.",
        machine=content["machine"],
    )
    content = content | {"results": [asdict(row) for row in found]}
    return write_report(folder, f"search_{model}", content, text, _plot_search(model, found))


def write_search_training(folder: Path, name: str, content: dict[str, Any]) -> list[Path]:
    """Write ``NAME.json``, ``.md`` and ``.png``; returns their paths.

    ``content``: ``commands``, ``machine``, ``checkpoint``, ``images``, ``batch_size`` and ``curves``, the
    measurements of each way.
    """
    header = ("way", "seconds", "steps", *_KINDS, "entropy", "codes used")
    rows = []
    for way, curve in content["curves"].items():
        for point in (curve[0], curve[-1]) if len(curve) > 1 else curve:
            spent = [f"{point[key]:.0f}" for key in ("seconds", "steps")]
            nats = [f"{point[key]:.1f}" for key in (*_KINDS, "entropy")]
            rows.append((way, *spent, *nats, f"{point['codes_used']:.0f}"))
    text = report(
        "Ways to go on from a trained tokenizer",
        content["commands"],
        table(header, rows),
        f"Mean log p(x|z) in nats of the first {content['images']} test images, entropy of q in nats. All began from "
        f"{content['checkpoint']} and had the same processor time, evaluations not counted, in steps of "
        f"{content['batch_size']} images; DAPS draws 4 samples of each. One run each: a few nats say nothing.",
        machine=content["machine"],
    )
    return write_report(folder, name, content, text, _plot_training(content["curves"]))


def write_prior(folder: Path, model: str, content: dict[str, Any]) -> list[Path]:
    """Write ``prior_MODEL.json`` and ``.md``; returns their paths.

    ``content``: ``command``, ``machine``, ``train``, ``data``, ``steps``, ``bits_per_item``, ``weights_sha256`` and the
    ``results`` of :func:`benchmarks.studies.prior.measure_prior`.
    """
    columns = {
        "log_p": "log p, nats",
        "log_q": "log q, nats",
        "bits_greedy_prior": "bits, prior of greedy codes",
        "bits_searched_prior": "bits, prior of searched codes",
    }
    text = report(
        f"Codes of {model} under a prior",
        [content["command"]],
        table(
            ("codes", *columns.values()),
            [(row["codes"], *(f"{row[key]:.1f}" for key in columns)) for row in content["results"]],
        ),
        f"Means an item over {content['data']}; without a prior an item has {content['bits_per_item']:.0f} bits. Each "
        f"prior is a causal transformer of 2 blocks, trained for {content['steps']} steps of 32 on {content['train']}; "
        f"weights {content['weights_sha256'][:12]}. Search: one sweep, two proposals; λ is log_q_weight.",
        machine=content["machine"],
    )
    return write_report(folder, f"prior_{model}", content, text)


def _plot_search(model: str, found: list[Found]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = {"log_p": "log p, nats"} | ({"psnr": "PSNR, dB"} if found[0].psnr is not None else {})
    figure = Figure(figsize=(6 * len(metrics), 8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(metrics), squeeze=False)
    greedy = found[0]
    for axes_of_cost, (cost, label) in zip(
        grid, {"decodes": "decodes an item", "seconds": "processor seconds an item"}.items(), strict=True
    ):
        for axes, (metric, metric_label) in zip(axes_of_cost, metrics.items(), strict=True):
            for family in dict.fromkeys(row.family for row in found[1:]):
                rows = sorted((row for row in found if row.family == family), key=lambda row: row.decodes)
                points = [(getattr(row, cost), getattr(row, metric)) for row in (greedy, *rows)]
                axes.plot(*zip(*points, strict=True), "o" if "proposal" in rows[0].name else "o-", label=family)
            axes.axhline(getattr(greedy, metric), color="grey", linewidth=0.8)
            axes.set(title=model, xlabel=label, ylabel=metric_label, xscale="log")
            axes.grid(alpha=0.3)
            axes.legend()
    return png_of(figure)


def _plot_training(curves: dict[str, list[dict[str, float]]]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(_KINDS), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(1, len(_KINDS)), _KINDS, strict=True):
        for way, curve in curves.items():
            axes.plot([point["seconds"] for point in curve], [point[kind] for point in curve], "o-", label=way)
        axes.set(title=f"{kind} codes", xlabel="processor seconds", ylabel="log p, nats")
        axes.grid(alpha=0.3)
    axes.legend()
    return png_of(figure)
