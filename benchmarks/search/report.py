"""What search gains and costs, as JSON, table and plot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.reports import new_figure, png_of, report, table, write_report
from benchmarks.search.measure import Measured


def write_search(folder: Path, model: str, found: list[Measured], content: dict[str, Any]) -> list[Path]:
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


def _plot_search(model: str, found: list[Measured]) -> bytes:
    metrics = {"log_p": "log p, nats"} | ({"psnr": "PSNR, dB"} if found[0].psnr is not None else {})
    figure = new_figure(6 * len(metrics), 8)
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
