"""``daps-tokenize encode``: images and motion clips to ``.daps`` files."""

from __future__ import annotations

import math
import time

import click

from daps_tokenizer.cli.code_grids import CodeGrids, draw, print_grids
from daps_tokenizer.cli.common import Progress, Report, for_each
from daps_tokenizer.cli.encoding import EncodedItem, Encoding, encoding_options
from daps_tokenizer.cli.media import Loaded, open_tokenizers
from daps_tokenizer.cli.options import Runtime, force_option, json_option, runtime_options
from daps_tokenizer.cli.outputs import Outputs
from daps_tokenizer.cli.sources import STANDARD_STREAM, default_model, is_codes, name_of
from daps_tokenizer.errors import InputError

_OUTPUT = "Where to write the codes: a file, a folder that ends with /, or - for standard output."
_SHOW = "Draw the codes, and the surprisal of each, -log2 q(code)."
_SHOW_PNG = "Draw the same as a picture of a single image or clip."


@click.command("encode")
@click.argument("sources", nargs=-1, required=True, metavar="FILES...")
@click.option("-o", "output", metavar="OUT", help=_OUTPUT)
@encoding_options
@click.option("--show", is_flag=True, help=_SHOW)
@click.option("--show-png", metavar="FILE", help=_SHOW_PNG)
@runtime_options
@force_option
@json_option
def command(
    sources: tuple[str, ...],
    output: str | None,
    model: str | None,
    encoding: Encoding,
    show: bool,
    show_png: str | None,
    runtime: Runtime,
    force: bool,
    as_json: bool,
) -> None:
    """Encode images and motion clips (CSV, NPZ), each as a .daps file.

    NAME.png becomes NAME.daps in the same folder, unless -o says otherwise. `daps-tokenize dataset` encodes a whole
    folder as one array.
    """
    outputs = Outputs(sources, output, ending=".daps", force=force, as_json=as_json)
    if show_png == STANDARD_STREAM:
        raise click.UsageError("--show-png writes a file, standard output is for codes.")
    picture = Outputs(sources, show_png, option="--show-png", ending=".png", force=force) if show_png else None
    tokenizers = open_tokenizers(sources, model, runtime)

    def work(source: str, progress: Progress) -> Report:
        if is_codes(source):
            raise InputError(f"{name_of(source)}: is a .daps file already; `daps-tokenize decode` decodes it")
        tokenizer = tokenizers[model or default_model(source)]
        (file,) = outputs.claim(source)
        if picture:
            picture.claim(source)
        if show or picture:
            tokenizer.config.require_probabilities()
        started = time.perf_counter()
        loaded = encoding.load(source, tokenizer)
        encoded = encoding.encode(tokenizer, loaded, progress)
        milliseconds = 1e3 * (time.perf_counter() - started)
        data = encoded.codes.to_bytes()
        if encoded.log_q is not None and (show or picture):
            grids = CodeGrids.of(encoded.codes, encoded.log_q, tokenizer.config.token_grid)
            if show:
                print_grids(grids, to_stderr=as_json or outputs.to_stdout)
            if picture:
                picture.write(picture.claim(source)[0], draw(grids))
        outputs.write(file, data)
        return _report(source, file, loaded, encoded, len(data), milliseconds)

    for_each(sources, work, as_json=as_json, to_stderr=outputs.to_stdout)


def _report(
    source: str, file: str, loaded: Loaded, encoded: EncodedItem, file_bytes: int, milliseconds: float
) -> Report:
    codes = encoded.codes
    code_bits = codes.num_bits // math.prod(codes.shape)
    payload_bytes = -(-codes.num_bits // 8)
    count = " x ".join(f"{size:,}" for size in codes.shape[1:])
    assumed = f"{loaded.assumed}, " if loaded.assumed else ""
    line = (
        f"{name_of(source)} -> {name_of(file, stream='standard output')}  {assumed}{count} codes of {code_bits} bits, "
        f"{encoded.bits}, {payload_bytes:,} bytes of codes (file {file_bytes:,} bytes), {codes.model}, "
        f"{milliseconds:.0f} ms{encoded.line}"
    )
    record = {
        "input": source,
        "output": file,
        "model": codes.model,
        "shape": codes.shape,
        "vocab_size": codes.vocab_size,
        "file_bytes": file_bytes,
        "milliseconds": milliseconds,
        **encoded.record,
    }
    if loaded.assumed:
        record["assumed"] = loaded.assumed
    return Report(line, record)
