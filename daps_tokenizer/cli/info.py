"""``daps-tokenize info``: what a model, a file of codes, a code set or this installation is."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import click
import numpy as np

from daps_tokenizer import __version__
from daps_tokenizer.backends.choice import runtimes
from daps_tokenizer.cli.options import json_option
from daps_tokenizer.cli.sources import DEFAULT_MODEL, STANDARD_STREAM, holds_code_set, is_codes, name_of, read_codes
from daps_tokenizer.data.code_set_files import CODES
from daps_tokenizer.data.code_sets import describe_progress
from daps_tokenizer.errors import ModelFileError, printable
from daps_tokenizer.hub import ModelFolder, built_in_models, open_model

_NOT_TRAINABLE = ("running_mean", "running_var", "num_batches_tracked")
_MOST_NUMBERS = 6  # that are printed of where a clip was; --json has all


@click.command("info")
@click.argument("target", required=False, metavar="[MODEL|CODES]")
@json_option
def command(target: str | None, as_json: bool) -> None:
    """Describe a model, a .daps file, a folder of codes, or this installation.

    CODES is a .daps file, a dash (-) for one on standard input, or a folder that `daps-tokenize dataset` wrote.
    `daps-tokenize doctor` says which runtimes work here, and how to install the others.
    """
    if target is None:
        described = _describe_installation()
    elif target == STANDARD_STREAM or is_codes(target):
        described = _describe_codes(target)
    elif holds_code_set(folder := target.removesuffix(f"/{CODES}")):
        described = _describe_code_set(Path(folder))
    else:
        described = _describe_model(open_model(target))
    if as_json:
        print(json.dumps(described))
        return
    width = max(len(name) for name in described)
    for name, value in described.items():
        for number, line in enumerate(_lines(value)):
            print(f"{'' if number else name.replace('_', ' '):{width}}  {printable(line)}")


def _describe_installation() -> dict[str, Any]:
    return {
        "version": __version__,
        "default_model": DEFAULT_MODEL,
        "built_in_models": list(built_in_models()),
        "backends": _backends(),
    }


def _backends() -> list[str]:
    """What is installed to run a model here, in the order in which ``--backend auto`` tries it."""
    found = [f"{r.backend} on {r.device} ({r.installed})" for r in runtimes() if not r.missing]
    return [f"{line}{'; tried first' if number == 0 else ''}" for number, line in enumerate(found)]


def _describe_codes(source: str) -> dict[str, Any]:
    codes = read_codes(source)
    return {
        "file": name_of(source),
        "model": codes.model,
        "built_in": codes.model in built_in_models(),
        "weights_sha256": codes.weights_sha256,
        "shape": list(codes.shape),
        "vocab_size": codes.vocab_size,
        "bits": codes.num_bits,
        "layout": None if codes.layout is None else dataclasses.asdict(codes.layout),
    }


def _describe_code_set(folder: Path) -> dict[str, Any]:
    """What the record of a code set says, also of one that is not complete."""
    record = describe_progress(folder)
    assert record is not None
    rows, row_shape = record["rows"], record["row_shape"] or []
    bits = math.prod(row_shape) * math.ceil(math.log2(record["vocab_size"]))
    return {
        "folder": str(folder),
        "state": record["state"],
        "model": record["model"],
        "built_in": record["model"] in built_in_models(),
        "weights_sha256": record["weights_sha256"],
        "shape": [rows, *row_shape],
        "vocab_size": record["vocab_size"],
        "bits_per_row": bits,
        "encoding": record["encoding"],
        "seed": record["seed"],
        "data": record["data"],
        "fit": record["fit"],
        "flip": record["flip"],
        "items": record["items"],
        "skipped": record["skipped"],
        "labels": "none"
        if record["labels_sha256"] is None
        else f"of {len(record['classes'] or ()) or 'unnamed'} classes",
    }


def _describe_model(folder: ModelFolder) -> dict[str, Any]:
    """All of a model that is worth knowing; its files are checked on the way."""
    config = folder.config
    likelihood: dict[str, Any] = {"kind": config.likelihood.kind}
    if config.likelihood.kind == "gaussian":
        likelihood |= {"min_variance": config.likelihood.min_variance, "max_variance": config.likelihood.max_variance}
    if config.likelihood.kind == "gaussian_constant":
        likelihood |= {"variance": config.likelihood.variance}
    return {
        "model": config.name,
        "origin": folder.origin,
        "folder": str(folder.path),
        "modality": config.modality,
        "input_shape": list(config.input_shape),
        "num_tokens": config.num_tokens,
        "vocab_size": config.vocab_size,
        "bits_per_item": config.bits_per_item,
        "parameters": _count_parameters(folder),
        "likelihood": likelihood,
        "files_in_bytes": {name: folder.file(name).stat().st_size for name in config.files},
        "training": config.training,
    }


def _count_parameters(folder: ModelFolder) -> dict[str, int]:
    """Trainable parameters of the recognition model and of the generative model."""
    from safetensors import SafetensorError, safe_open

    file = folder.file("model.safetensors")
    counts: dict[str, int] = {}
    try:
        with safe_open(file, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                if not name.endswith(_NOT_TRAINABLE):
                    part = name.partition(".")[0]
                    counts[part] = counts.get(part, 0) + math.prod(weights.get_slice(name).get_shape())
    except SafetensorError as error:
        raise ModelFileError(f"{file}: cannot be read ({error}); expected safetensors") from error
    return counts


def _lines(value: Any) -> list[str]:
    """A described value as lines for people: mappings and lists an entry a line, without what lies deeper in them."""
    if isinstance(value, dict):
        return [f"{name}: {_text(entry)}" for name, entry in value.items()] or ["none"]
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return value or ["none"]
    return [_text(value)]


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, dict):
        plain = {name: entry for name, entry in value.items() if not isinstance(entry, dict | list)}
        return ", ".join(f"{name} {_text(entry)}" for name, entry in plain.items())
    if isinstance(value, list):
        return _times(value) if value and all(isinstance(size, int) for size in value) else f"{len(value)} entries"
    if isinstance(value, tuple):
        return str(value) if np.size(value) <= _MOST_NUMBERS else f"{np.size(value):,} numbers"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _times(shape: list[int]) -> str:
    return "x".join(str(size) for size in shape)
