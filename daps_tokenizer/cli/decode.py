"""``daps-tokenize decode``: ``.daps`` files and rows of code sets to images and clips."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import NamedTuple, get_args

import click

from daps_tokenizer.cli.common import Progress, Report, for_each
from daps_tokenizer.cli.media import Written, media_of, suffix_of
from daps_tokenizer.cli.options import Runtime, Tokenizers, force_option, json_option, runtime_options
from daps_tokenizer.cli.outputs import Outputs
from daps_tokenizer.cli.sources import is_folder, name_of, read_codes
from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.data.code_sets import CodeSet
from daps_tokenizer.errors import CodesError
from daps_tokenizer.hub import built_in_models
from daps_tokenizer.motion.clip_files import Kind

_AT_ONCE = 64  # items that are decoded together

_OUTPUT = "Where to write the image or clip: a file, a folder that ends with /, or - for standard output."
_MODEL = "The model that made the codes; without it, the built-in one that the codes name."
_FPS = "The frame rate of the clips that are written; default: that of the original."
_FORMAT = "How clips are written: CSV files as lafan or bones, NPZ files as qpos, data or mjlab."
_ROWS = "Decode only these items, START:STOP as in Python; needed for a code set."


class _Chosen(NamedTuple):
    """Codes to decode (B, ...), and the numbers that the names of their outputs end with, one empty one of one item."""

    codes: Codes
    numbers: list[str]


def _parse_rows(ctx: click.Context, parameter: click.Parameter, text: str | None) -> slice | None:
    """``0:16`` as a slice, ``3`` as that of one row."""
    if text is None:
        return None
    try:
        start, colon, stop = text.partition(":")
        if not colon:
            return slice(int(start), int(start) + 1 or None)
        return slice(int(start) if start else None, int(stop) if stop else None)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not START:STOP, such as 0:16.", ctx, parameter) from None


@click.command("decode")
@click.argument("sources", nargs=-1, required=True, metavar="CODES...")
@click.option("-o", "output", metavar="OUT", help=_OUTPUT)
@click.option("--rows", metavar="START:STOP", callback=_parse_rows, help=_ROWS)
@click.option("--fps", type=float, help=_FPS)
@click.option("--format", "kind", type=click.Choice(get_args(Kind)), help=_FORMAT)
@click.option("--model", help=_MODEL)
@runtime_options
@force_option
@json_option
def command(
    sources: tuple[str, ...],
    output: str | None,
    rows: slice | None,
    fps: float | None,
    kind: Kind | None,
    model: str | None,
    runtime: Runtime,
    force: bool,
    as_json: bool,
) -> None:
    """Decode .daps files and code sets: images to PNG, motion to CSV (or to NPZ, with -o NAME.npz).

    NAME.daps becomes NAME.decoded.png or NAME.decoded.csv in the same folder, so that the original is never
    overwritten. Several items of one file become NAME.decoded-0.png, NAME.decoded-1.png and so on. CODES is also a
    folder that `daps-tokenize dataset` wrote; its outputs have the numbers of their rows.
    """
    outputs = Outputs(sources, output, force=force, as_json=as_json)
    tokenizers = Tokenizers(runtime)

    def work(source: str, progress: Progress) -> Report:
        chosen = _choose(source, rows)
        codes = chosen.codes
        if model is None and codes.model not in built_in_models():
            raise CodesError(
                f"made by {codes.model!r}, which is not built in; pass --model with its ./folder or org/name"
            )
        tokenizer = tokenizers[model or codes.model]
        media = media_of(tokenizer.modality)
        endings = [f".decoded{ending}" for ending in media.endings]
        names = outputs.claim(source, numbers=chosen.numbers, endings=endings)
        started = time.perf_counter()
        written = 0
        step = _AT_ONCE if codes.layout is None else 1  # a photograph in tiles or a long clip may be large
        for first in range(0, codes.shape[0], step):
            decoded = media.decode(
                tokenizer, codes[first : first + step], suffix_of(names[0], media), Written(fps, kind)
            )
            for data in decoded.files:
                outputs.write(names[written], data)
                written += 1
            progress(written / len(names))
        milliseconds = 1e3 * (time.perf_counter() - started)
        shown = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"
        count = "" if len(names) == 1 else f"{len(names)} {media.items} of "
        line = (
            f"{name_of(source)} -> {name_of(shown, stream='standard output')}  {count}{decoded.said.text}, "
            f"{codes.model}, {milliseconds:.0f} ms"
        )
        record = {
            "input": source,
            "outputs": names,
            "model": codes.model,
            **decoded.said.record,
            "milliseconds": milliseconds,
        }
        return Report(line, record)

    for_each(sources, work, as_json=as_json, to_stderr=outputs.to_stdout)


def _choose(source: str, rows: slice | None) -> _Chosen:
    """The items of a source that are asked for.

    Raises:
        CodesFileError: it cannot be read, or is neither a ``.daps`` file nor a code set.
        CodesError: there are no such rows, or a code set without ``--rows``.
    """
    if is_folder(source):
        code_set = CodeSet.open(source)
        if rows is None:
            raise CodesError(f"{source}: holds {len(code_set):,} rows; choose some of them, as with --rows 0:16")
        numbers = _numbers(source, rows, len(code_set))
        codes = code_set[rows]
        samples = range(math.prod(codes.shape[1:-1]))
        return _Chosen(codes, [f"{row}-{k}" if len(samples) > 1 else f"{row}" for row in numbers for k in samples])
    codes = read_codes(source)
    if codes.shape[: -1 if codes.layout is None else -2] == ():  # of an item without an axis of items
        codes = dataclasses.replace(codes, values=codes.numpy()[None])
    items = math.prod(codes.shape[: -1 if codes.layout is None else -2])
    if rows is None:
        return _Chosen(codes, [str(number) for number in range(items)] if items > 1 else [""])
    each = items // codes.shape[0]
    numbers = _numbers(source, rows, codes.shape[0])
    return _Chosen(codes[rows], [str(row * each + k) for row in numbers for k in range(each)])


def _numbers(source: str, rows: slice, count: int) -> range:
    numbers = range(count)[rows]
    if not numbers:
        raise CodesError(f"{name_of(source)}: holds {count:,} rows, numbered from 0; --rows selects none of them")
    return numbers
