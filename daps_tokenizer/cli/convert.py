"""``daps-tokenize convert``: codes in the formats that loaders of generative models read."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import get_args

import click

from daps_tokenizer.cli.common import progress_bar
from daps_tokenizer.cli.options import force_option, json_option
from daps_tokenizer.cli.sources import is_folder, name_of, read_codes
from daps_tokenizer.data.code_sets import CodeSet
from daps_tokenizer.data.converters import Format, Rows, convert, rows_of_files, rows_of_set
from daps_tokenizer.errors import CodesError

_TO = "The format to write."
_OUTPUT = "The folder to write; default: CODES-FORMAT, next to CODES."
_SPLIT = "How the names of the files begin."
_FILES = "How many files to write, for parquet and webdataset; default: one for each 256 MB of codes."


@click.command("convert")
@click.argument("sources", nargs=-1, required=True, metavar="CODES...")
@click.option("--to", type=click.Choice(get_args(Format)), required=True, help=_TO)
@click.option("-o", "output", type=click.Path(path_type=Path), metavar="FOLDER", help=_OUTPUT)
@click.option("--split", default="train", show_default=True, help=_SPLIT)
@click.option("--files", type=click.IntRange(min=1), metavar="N", help=_FILES)
@force_option
@json_option
def command(
    sources: tuple[str, ...],
    to: Format,
    output: Path | None,
    split: str,
    files: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write codes in a format that loaders of generative models read.

    CODES is a folder that `daps-tokenize dataset` wrote, or .daps files of one model.

    parquet is for Hugging Face datasets, webdataset for tar loaders, bin for nanoGPT (uint16, with a start token for
    each class), jsonl for RAR, npy-folder for LlamaGen. meta.json says what the ids mean.
    """
    if not split.replace("-", "").replace("_", "").isalnum():
        raise click.UsageError(f"--split {split!r} becomes part of file names; use letters, digits, - and _.")
    if output is None:
        if len(sources) > 1 or sources[0] == "-":
            raise click.UsageError("Name the folder to write with -o.")
        only = Path(sources[0])
        output = only.with_name(f"{only.name if is_folder(sources[0]) else only.stem}-{to}")
    rows = _open(sources)
    started = time.perf_counter()
    with progress_bar(len(rows)) as show_done:
        meta = convert(rows, to, output, split=split, files=files, replace=force, on_progress=show_done)
    seconds = time.perf_counter() - started
    if as_json:
        print(json.dumps({"output": str(output), **meta, "seconds": seconds}))
        return
    inputs = name_of(sources[0]) if len(sources) == 1 else f"{len(sources)} inputs"
    shape = " x ".join(f"{size:,}" for size in rows.values.shape)
    print(f"{inputs} -> {output}  {shape} codes as {to}, {rows.about['model']}, {seconds:.1f} s")


def _open(sources: tuple[str, ...]) -> Rows:
    folders = [source for source in sources if is_folder(source)]
    if folders and len(sources) > 1:
        raise CodesError(f"{folders[0]}: is a folder of codes among other inputs; convert each folder alone")
    if folders:
        return rows_of_set(CodeSet.open(folders[0]))
    return rows_of_files([(name_of(source), read_codes(source)) for source in sources])
