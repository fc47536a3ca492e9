"""How long a span of positions should be: encoding with each length, and with the one that is chosen, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.reports import report, short, table, write_report
from daps_tokenizer.backends.workers import Workers
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model.autoencoder import Autoencoder
from export.encoder import export_encoder

CHOSEN = "as chosen"


def span_lengths(config: TokenizerConfig) -> list[int]:
    """The whole window, halves of it down to four positions, and one."""
    lengths = [config.codes_per_window]
    while lengths[-1] >= 8:
        lengths.append(lengths[-1] // 2)
    return [*lengths, 1]


def measure_spans(model: Autoencoder, inputs: np.ndarray, batches: Sequence[int], temperature: float) -> dict[str, Any]:
    """Encode on one thread of ONNX Runtime, as the backend does, batch by batch and span by span.

    Args:
        model: in evaluation mode.
        inputs: uint8 images or features (items, *input_shape).
        batches: numbers of items in a call.
        temperature: 0 is greedy.

    Returns:
        ``rows``, for each batch and span the median of a call's milliseconds of processor time an item, and the mean
        passes over a window; ``codes_equal``, the share of all codes that are those of the loop.
    """
    graphs = {str(span): export_encoder(model, span=span) for span in span_lengths(model.config)}
    graphs[CHOSEN] = export_encoder(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = {
        name: onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for name, graph in graphs.items()
    }
    uniform = np.random.default_rng(0).random((len(inputs), model.config.num_tokens), dtype=np.float32)
    name = "images" if model.config.modality == "image" else "features"
    worker = Workers(1)  # in which denormal floats are zero, as in the backend's threads
    rows, equal = [], []
    for batch in batches:
        milliseconds: dict[str, list[float]] = {span: [] for span in sessions}
        passes: dict[str, list[float]] = {span: [] for span in sessions}
        for first in range(0, len(inputs) - batch + 1, batch):
            items = slice(first, first + batch)
            feed = {name: inputs[items], "uniform": uniform[items], "temperature": np.array(temperature, np.float32)}
            codes = {}
            for span, session in sessions.items():
                seconds, (codes[span], made) = worker.run(partial(_timed, session, feed))
                milliseconds[span].append(1e3 * seconds / batch)
                passes[span].append(float(made.mean()))
            equal += [float((found == codes["1"]).mean()) for found in codes.values()]
        for span in sessions:
            # The first call of a session allocates.
            median = statistics.median(milliseconds[span][1:])
            rows.append({"batch": batch, "span": span, "ms": median, "passes": statistics.mean(passes[span])})
    return {"rows": rows, "codes_equal": statistics.mean(equal)}


def _timed(session: Any, feed: dict[str, np.ndarray]) -> tuple[float, list[np.ndarray]]:
    started = time.thread_time()
    results = session.run(["codes", "passes"], feed)
    return time.thread_time() - started, results


def write_spans(folder: Path, content: dict[str, Any]) -> list[Path]:
    """Write ``spans_MODEL``: JSON, and a table with a row for each span and a column for each batch."""
    rows = content["rows"]
    batches, spans = (list(dict.fromkeys(row[key] for row in rows)) for key in ("batch", "span"))
    cells = {(row["batch"], row["span"]): f"{short(row['ms'])} ({row['passes']:.2f})" for row in rows}
    text = report(
        "How many positions to draw at a time",
        [content["command"]],
        table(
            ("span", *(f"batch {batch}" for batch in batches)),
            [(span, *(cells[batch, span] for batch in batches)) for span in spans],
        ),
        f"Milliseconds of processor time an item, in brackets passes over all positions. {content['model']}, "
        f"{content['data']}, temperature {content['temperature']:g}, one thread of ONNX Runtime, spans in turns. A "
        f"span of 1 is the sequential loop. Codes equal to the loop's: {content['codes_equal']:.4%}.",
        machine=content["machine"],
    )
    return write_report(folder, f"spans_{content['model']}", content, text)
