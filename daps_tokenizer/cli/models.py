"""``daps-tokenize models``: the built-in models and their quality."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from daps_tokenizer.cli.common import print_table
from daps_tokenizer.cli.options import json_option
from daps_tokenizer.hub import (
    GeneratorFolder,
    ModelFolder,
    built_in_generators,
    built_in_models,
    open_generator,
    open_model,
)


@click.command("models")
@json_option
def command(as_json: bool) -> None:
    """List the built-in models and their quality, and the built-in generators."""
    folders = [open_model(name) for name in built_in_models()]
    generators = [open_generator(name) for name in built_in_generators()]
    if as_json:
        for folder in folders:
            print(json.dumps(_describe_in_short(folder)))
        for generator in generators:
            print(json.dumps(_describe_generator(generator)))
        return
    if not folders:
        print("this installation has no built-in models", file=sys.stderr)
        return
    rows = [_describe_in_short(folder) for folder in folders]
    print_table(
        ["model", "input", "codes", "bits", "size", "log p, nats", "PSNR, dB"],
        [
            [
                row["model"],
                f"{row['modality']} {'x'.join(map(str, row['input_shape']))}",
                f"{row['num_tokens']} of {row['vocab_size']}",
                f"{row['bits_per_item']:g}",
                f"{row['bytes'] / 1e6:.1f} MB",
                _number(row["evaluation"].get("sampled_log_p")),
                _number(row["evaluation"].get("sampled_psnr")),
            ]
            for row in rows
        ],
    )
    print("log p(x|z) and PSNR of sampled codes, means over the test set; - is not measured")
    if generators:
        print()
        described = [_describe_generator(generator) for generator in generators]
        print_table(
            ["generator", "kind", "draws codes of", "labels", "size"],
            [
                [
                    row["generator"],
                    row["kind"],
                    row["tokenizer"],
                    str(len(row["labels"])),
                    f"{row['bytes'] / 1e6:.1f} MB",
                ]
                for row in described
            ],
        )


def _describe_in_short(folder: ModelFolder) -> dict[str, Any]:
    config = folder.config
    evaluation = config.training.get("evaluation")
    return {
        "model": config.name,
        "modality": config.modality,
        "input_shape": list(config.input_shape),
        "num_tokens": config.num_tokens,
        "vocab_size": config.vocab_size,
        "bits_per_item": config.bits_per_item,
        "bytes": _bytes(folder),
        "evaluation": evaluation if isinstance(evaluation, dict) else {},
    }


def _describe_generator(folder: GeneratorFolder) -> dict[str, Any]:
    config = folder.config
    return {
        "generator": config.name,
        "kind": config.kind,
        "tokenizer": config.tokenizer.name,
        "labels": list(config.labels),
        "bytes": _bytes(folder),
    }


def _bytes(folder: ModelFolder) -> int:
    return sum(file.stat().st_size for file in folder.path.rglob("*") if file.is_file())


def _number(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else "-"
