"""``daps-tokenize evaluate``: how good a model is on a dataset."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, get_args

import click

from daps_tokenizer.cli.common import print_table, progress_bar
from daps_tokenizer.cli.options import Command, Runtime, add_options, force_option, json_option, runtime_options
from daps_tokenizer.cli.outputs import is_there
from daps_tokenizer.data.datasets import Data, Split, open_data
from daps_tokenizer.errors import DapsError, OutputExistsError
from daps_tokenizer.evaluation.evaluate import Evaluated, describe_protocol, evaluate, ways_to_encode
from daps_tokenizer.evaluation.metrics import interval_text
from daps_tokenizer.evaluation.perceptual import open_perceptual
from daps_tokenizer.evaluation.timing import machine_line
from daps_tokenizer.files import write_bytes_atomically
from daps_tokenizer.hub import open_model
from daps_tokenizer.images.load import Fit
from daps_tokenizer.search.local import LocalSearch

_WAYS = ("greedy", "sampled")
_DIGITS = {"log_p": 2, "l2": 3, "log_q": 2, "psnr": 2, "ssim": 4, "lpips": 4} | {
    "joint_error": 2,  # of motion: degrees, cm, cm, cm/s twice, m/s³ twice
    "root_error": 2,
    "site_error": 2,
    "foot_sliding": 2,
    "foot_sliding_original": 2,
    "jerk": 1,
    "jerk_original": 1,
}


def _options(command: Command) -> Command:
    fits = "How an image of another size is scaled."
    split = "Which part of MNIST, CIFAR-10 or LAFAN1 to measure; default: test."
    codes = "Which codes to measure; repeatable; default: both."
    best_of = "Measure the best of N candidates too; repeatable."
    search = "Measure codes from local search with N proposals too; repeatable."
    lpips = "Measure LPIPS too; needs torchmetrics, which the extra `eval` installs."
    fid = "Measure FID too; needs torchmetrics, which the extra `eval` installs."
    fid_weights = "The file of Inception's weights for FID; without it they are downloaded."
    path = click.Path(path_type=Path)
    options = [
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Measure only the first N items."),
        click.option("--fit", type=click.Choice(get_args(Fit)), default="crop", show_default=True, help=fits),
        click.option("--split", type=click.Choice(get_args(Split)), default="test", help=split),
        click.option("--codes", type=click.Choice(_WAYS), multiple=True, help=codes),
        click.option("--best-of", type=click.IntRange(min=1), metavar="N", multiple=True, help=best_of),
        click.option("--search", type=click.IntRange(min=1), metavar="N", multiple=True, help=search),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The random seed."),
        click.option("--lpips", is_flag=True, help=lpips),
        click.option("--fid", is_flag=True, help=fid),
        click.option("--fid-weights", type=path, help=fid_weights),
        click.option("-o", "output", type=path, metavar="OUT.json", help="Write the result to this file."),
        click.option("--records", type=path, metavar="OUT.jsonl", help="Write a line for each item to this file."),
    ]
    return add_options(command, options)


@click.command("evaluate")
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@_options
@runtime_options
@force_option
@json_option
def command(
    model: str,
    data: Path,
    limit: int | None,
    fit: Fit,
    split: Split,
    codes: tuple[str, ...],
    best_of: tuple[int, ...],
    search: tuple[int, ...],
    seed: int,
    lpips: bool,
    fid: bool,
    fid_weights: Path | None,
    output: Path | None,
    records: Path | None,
    runtime: Runtime,
    force: bool,
    as_json: bool,
) -> None:
    """Measure MODEL on DATA: a folder or tar file of images, mnist.npz, or a folder of CIFAR-10 mosaics.

    Of motion: lafan1_h1.npz, or CSV and NPZ files of clips, in windows of the model's length.

    It reports log p(x|z) and log q(z|x) in nats, L2 in standardised units, PSNR and SSIM of 8-bit pixels, and code
    usage: means over all items with 95 % bootstrap intervals.
    """
    _check_outputs([path for path in (output, records) if path is not None], force)
    tokenizer = runtime.open(open_model(model))
    opened = open_data(data, tokenizer.config, fit=fit, split=split, limit=limit)
    if "sampled" in codes:
        tokenizer.config.require_probabilities()
    searches = {f"local search, {count} proposals": LocalSearch(proposals=count) for count in search}
    ways = ways_to_encode(tokenizer, best_of=best_of, searches=searches)
    ways = {name: way for name, way in ways.items() if name not in _WAYS or name in (codes or _WAYS)}
    perceptual = open_perceptual(lpips=lpips, fid=fid, fid_weights=fid_weights)
    observe = perceptual.observe if perceptual else None
    with progress_bar(len(opened)) as show_done:
        found = evaluate(tokenizer, opened, ways, seed=seed, observe=observe, on_progress=show_done)
    results = {name: each.summary(tokenizer.vocab_size, seed) for name, each in found.items()}
    for name, result in results.items():
        distance = perceptual.fid(name) if perceptual else None
        if distance is not None:
            result["fid"] = distance
    content = {"protocol": describe_protocol(tokenizer, opened, seed=seed), "results": results}
    try:
        if output is not None:
            write_bytes_atomically(output, (json.dumps(content, indent=2) + "\n").encode(), overwrite=force)
        if records is not None:
            write_bytes_atomically(records, _record_lines(opened, found).encode(), overwrite=force)
    finally:  # what took long is never lost: a reader who left does not keep it from files, nor a full disk from here
        if as_json:
            print(json.dumps(content))
        else:
            _print_results(content)


def _check_outputs(paths: list[Path], force: bool) -> None:
    """Refuse before anything is measured what could not be written afterwards."""
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise click.UsageError(f"-o and --records are both {paths[0]}; give each a file of its own.")
    for path in paths:
        if is_there(path) and not force:
            raise OutputExistsError(f"{path} already exists; pass --force to overwrite it or give another name")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise DapsError(f"{path}: cannot be written: {path.parent} is missing, or not to be written to")


def _record_lines(data: Data, found: dict[str, Evaluated]) -> str:
    """One JSON object per item and way to encode, in the order of the items."""
    names = (name for name, _ in data.entries())
    return "".join(
        json.dumps({"item": name, "codes": way, **{key: float(values[index]) for key, values in each.items.items()}})
        + "\n"
        for index, name in enumerate(names)
        for way, each in found.items()
    )


def _print_results(content: dict[str, Any]) -> None:
    protocol, results = content["protocol"], content["results"]
    metrics = [name for name in _DIGITS if name in next(iter(results.values()))]
    with_fid = any("fid" in result for result in results.values())
    rows = []
    for way, result in results.items():
        cells = [interval_text(result[name], _DIGITS[name]) for name in metrics]
        usage = [f"{result['code_perplexity']:.1f}", str(result["codes_used"]), str(result["dead_codes"])]
        rows.append([way, *cells, *([f"{result['fid']:.2f}"] if with_fid else []), *usage])
    print_table(["codes", *metrics, *(["fid"] if with_fid else []), "perplexity", "used", "dead"], rows)
    print(
        f"{protocol['items']} items of {protocol['data']}, fit {protocol['fit']}, seed {protocol['seed']}, "
        f"{protocol['model']} (weights {protocol['weights_sha256'][:12]}), {protocol['bits_per_item']:g} bits an item, "
        f"{protocol['backend']}, {protocol['device']}; means with 95 % bootstrap intervals"
    )
    print(machine_line(protocol["machine"]))
