"""``daps-tokenize``: images and motion to codes and back from the command line.

Files are written beside their inputs unless ``-o`` names another, and never over others without ``--force``. Whatever
is wrong with an input is said in one line on standard error, and the exit code is 2.
"""

from __future__ import annotations

import io
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from daps_tokenizer import __version__
from daps_tokenizer.cli.bench import bench
from daps_tokenizer.cli.common import (
    STANDARD_STREAM,
    Outputs,
    Progress,
    Report,
    Runtime,
    Tokenizers,
    for_each,
    force_option,
    json_option,
    name_of,
    print_error,
    read_codes,
    runtime_options,
    standard_output_error,
)
from daps_tokenizer.cli.dataset import dataset_command
from daps_tokenizer.cli.encoding import Encoded, Encoding, encoding_options
from daps_tokenizer.cli.evaluate import evaluate_command
from daps_tokenizer.cli.media import default_model, media_of, open_tokenizers, suffix_of
from daps_tokenizer.cli.models import info, models
from daps_tokenizer.cli.reconstruct import reconstruct
from daps_tokenizer.errors import CodesError, DapsError, InputError
from daps_tokenizer.hub import built_in_models

_BAD_INPUT, _INTERRUPTED = 2, 130


class _Commands(click.Group):
    """Takes a file in place of a command, and shows every error as one line."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """``daps-tokenize cat.png`` encodes and ``daps-tokenize cat.daps`` decodes."""
        file = Path(args[0])
        is_file = os.path.isfile(file)  # noqa: PTH113 - Path.is_file raises an error where a folder may not be entered
        if self.get_command(ctx, args[0]) is None and (file.suffix or is_file):
            # What begins with a dash came after "--", which click has taken away by now.
            files_only = ["--"] if args[0].startswith("-") else []
            args = ["decode" if file.suffix.lower() == ".daps" else "encode", *files_only, *args]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and print what it has printed while errors of that are still caught."""
        result = super().invoke(ctx)
        print(end="", flush=True)
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = False,
        **extra: Any,
    ) -> NoReturn:
        """Run, and exit: 0 if all went well, 2 on bad input, 130 when interrupted."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold what no terminal can show
        try:
            status = super().main(args, prog_name, complete_var, standalone_mode, **extra)
        except click.Abort:
            sys.exit(_INTERRUPTED)
        except click.UsageError as error:
            command = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
            print_error(error.format_message().rstrip(".") + command)
            sys.exit(_BAD_INPUT)
        except (click.ClickException, DapsError) as error:
            print_error(str(error))
            sys.exit(_BAD_INPUT)
        except OSError as error:  # of print, since files have errors of their own; click has caught a broken pipe
            print_error(str(standard_output_error(error)))
            sys.exit(_BAD_INPUT)
        sys.exit(status if isinstance(status, int) else 0)


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="daps-tokenize")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Images and robot motion to discrete codes and back.

    `daps-tokenize cat.png` writes cat.daps and `daps-tokenize cat.daps` writes cat.png; walk.csv becomes walk.daps and
    walk.csv again. - is standard input or output.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@main.command()
@click.argument("sources", nargs=-1, required=True, metavar="FILES...")
@click.option("-o", "output", metavar="OUT", help="Where to write the codes; - is standard output.")
@encoding_options
@click.option("--show", is_flag=True, help="Draw the codes and the surprisal of each, -log2 q(code).")
@click.option("--show-png", metavar="FILE", help="The same as a picture, of a single image or clip.")
@runtime_options
@force_option
@json_option
def encode(
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
    """Encode images and motion clips (CSV, NPZ), each as a .daps file beside it."""
    outputs = Outputs(sources, output, ending=".daps", force=force, as_json=as_json)
    if show_png == STANDARD_STREAM:
        raise click.UsageError("--show-png writes a file, standard output is for codes.")
    picture = Outputs(sources, show_png, option="--show-png", ending=".png", force=force) if show_png else None
    tokenizers = open_tokenizers(sources, model, runtime)

    def work(source: str, progress: Progress) -> Report:
        if Path(source).suffix.lower() == ".daps":
            raise InputError(f"{source}: is a .daps file already; `daps-tokenize decode` decodes it")
        tokenizer, _backend = tokenizers[model or default_model(source)]
        (file,) = outputs.claim(source)
        if picture:
            picture.claim(source)
        started = time.perf_counter()
        loaded = encoding.load(source, tokenizer)
        encoded = encoding.encode(tokenizer, loaded, progress)
        milliseconds = 1e3 * (time.perf_counter() - started)
        codes = encoded.codes
        data = codes.to_bytes()
        if show or picture:
            from daps_tokenizer.cli.show import CodeGrids, draw, print_grids

            log_q = tokenizer.token_log_probs(loaded, codes, **encoding.inputs)
            grids = CodeGrids.of(codes, log_q, tokenizer.config.token_grid)
            if show:
                print_grids(grids, to_stderr=as_json or outputs.to_stdout)
            if picture:
                picture.write(picture.claim(source)[0], draw(grids))
        outputs.write(file, data)
        return _encode_report(source, file, encoded, len(data), milliseconds)

    for_each(sources, work, as_json=as_json, to_stderr=outputs.to_stdout)


def _encode_report(source: str, file: str, encoded: Encoded, file_bytes: int, milliseconds: float) -> Report:
    codes = encoded.codes
    code_bits = codes.num_bits // math.prod(codes.shape)
    payload_bytes = -(-codes.num_bits // 8)
    count = " x ".join(str(size) for size in codes.shape[1:])
    line = (
        f"{name_of(source)} -> {name_of(file, stream='standard output')}  {count} codes of {code_bits} bits, "
        f"{payload_bytes} bytes of codes (file {file_bytes} bytes), {codes.model}, {milliseconds:.0f} ms"
        f"{encoded.line}"
    )
    record = {
        "input": source,
        "output": file,
        "model": codes.model,
        "shape": codes.shape,
        "vocab_size": codes.vocab_size,
        "bits": codes.num_bits,
        "file_bytes": file_bytes,
        "milliseconds": milliseconds,
        **encoded.record,
    }
    return Report(line, record)


@main.command()
@click.argument("sources", nargs=-1, required=True, metavar="FILES...")
@click.option("-o", "output", metavar="OUT", help="Where to write the image or clip; - is standard output.")
@click.option("--model", help="The model that made the codes; default: the built-in one that the file names.")
@runtime_options
@force_option
@json_option
def decode(
    sources: tuple[str, ...], output: str | None, model: str | None, runtime: Runtime, force: bool, as_json: bool
) -> None:
    """Decode .daps files, each beside it: images to PNG, motion to CSV (or to NPZ, with -o NAME.npz).

    Several items of one file become NAME-0.png, NAME-1.png and so on.
    """
    outputs = Outputs(sources, output, force=force, as_json=as_json)
    tokenizers = Tokenizers(runtime)

    def work(source: str, _: Progress) -> Report:
        codes = read_codes(source)
        if model is None and codes.model not in built_in_models():
            raise CodesError(
                f"made by {codes.model!r}, which is not built in; pass --model with its ./folder or org/name"
            )
        tokenizer, _backend = tokenizers[model or codes.model]
        media = media_of(tokenizer.modality)
        names = outputs.claim(
            source, count=math.prod(codes.shape[: -1 if codes.layout is None else -2]), endings=media.endings
        )
        started = time.perf_counter()
        _array, files, said = media.decode(tokenizer, codes, suffix_of(names[0], media))
        milliseconds = 1e3 * (time.perf_counter() - started)
        for name, data in zip(names, files, strict=True):
            outputs.write(name, data)
        shown = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"
        count = "" if len(names) == 1 else f"{len(names)} {media.items} of "
        line = (
            f"{name_of(source)} -> {name_of(shown, stream='standard output')}  {count}{said.text}, "
            f"{codes.model}, {milliseconds:.0f} ms"
        )
        record = {"input": source, "outputs": names, "model": codes.model, **said.record, "milliseconds": milliseconds}
        return Report(line, record)

    for_each(sources, work, as_json=as_json, to_stderr=outputs.to_stdout)


for _command in (reconstruct, dataset_command, info, models, bench, evaluate_command):
    main.add_command(_command)
