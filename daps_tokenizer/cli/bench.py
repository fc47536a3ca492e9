"""``daps-tokenize bench``: how fast a model is on this machine."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from daps_tokenizer import Tokenizer
from daps_tokenizer.cli.common import DEFAULT_MODEL, Runtime, json_option, print_table, progress_bar, runtime_options
from daps_tokenizer.evaluation.timing import describe_machine, machine_line, synthetic_inputs, time_calls
from daps_tokenizer.hub import open_model


@click.command()
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--batch", "batches", type=click.IntRange(min=1), multiple=True, help="Repeatable; default: 1 and 8.")
@click.option("--seconds", type=click.FloatRange(0, 3600), default=2.0, show_default=True, help="For each measurement.")
@runtime_options
@json_option
def bench(model: str, batches: tuple[int, ...], seconds: float, runtime: Runtime, as_json: bool) -> None:
    """Time MODEL on this machine."""
    folder = open_model(model)
    tokenizer = Tokenizer(folder, runtime.open(folder))
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
            print(json.dumps(common | {"threads": runtime.threads} | row | machine))
        return
    print(f"{common['model']} on {common['backend']}, {common['device']}, {runtime.threads or 'default'} threads")
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
