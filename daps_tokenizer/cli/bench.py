"""``daps-tokenize bench``: how fast a model is on this machine."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from daps_tokenizer.cli.common import print_table, progress_bar
from daps_tokenizer.cli.options import Runtime, json_option, runtime_options
from daps_tokenizer.cli.sources import DEFAULT_MODEL
from daps_tokenizer.evaluation.timing import describe_machine, machine_line, synthetic_inputs, time_calls
from daps_tokenizer.hub import open_model

_BATCH = "How many items to encode and decode at once; repeatable; default: 1 and 8."
_SECONDS = "How long each measurement takes at least."


@click.command("bench")
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--batch", "batches", type=click.IntRange(min=1), metavar="N", multiple=True, help=_BATCH)
@click.option("--seconds", type=click.FloatRange(0, 3600), default=2.0, show_default=True, help=_SECONDS)
@runtime_options
@json_option
def command(model: str, batches: tuple[int, ...], seconds: float, runtime: Runtime, as_json: bool) -> None:
    """Time MODEL on this machine, on synthetic inputs; default: daps-photo-256."""
    tokenizer = runtime.open(open_model(model))
    machine = describe_machine()
    common = {
        "model": tokenizer.config.name,
        "backend": tokenizer.backend,
        "backend_info": tokenizer.backend_info,
        "device": tokenizer.device,
    }
    rows: list[dict[str, Any]] = []
    sizes = batches or (1, 8)
    with progress_bar(2 * len(sizes)) as show_done:
        for batch in sizes:
            inputs = synthetic_inputs(batch, tokenizer.config)
            codes = tokenizer.encode(inputs)
            for action, call in {
                "encode": lambda inputs=inputs: tokenizer.encode(inputs),
                "decode": lambda codes=codes: tokenizer.decode(codes),
            }.items():
                timing = time_calls(call, batch=batch, seconds=seconds)
                rows.append({"action": action, "batch": batch, **dataclasses.asdict(timing)})
                show_done(len(rows))
    if as_json:
        for row in rows:
            print(json.dumps(common | {"num_threads": runtime.num_threads} | row | machine))
        return
    print(f"{common['model']} on {common['backend']}, {common['device']}, {runtime.num_threads or 'default'} threads")
    print_table(
        ["action", "batch", "calls", "median, ms", "p95, ms", "items/s"],
        [
            [
                row["action"],
                str(row["batch"]),
                str(row["calls"]),
                f"{row['median_ms']:.2f}",
                f"{row['p95_ms']:.2f}",
                f"{row['items_per_second']:.1f}",
            ]
            for row in rows
        ],
    )
    print(machine_line(machine))
