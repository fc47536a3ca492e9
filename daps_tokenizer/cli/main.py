"""``daps-tokenize``: images and motion to codes and back from the command line.

Files are written next to their inputs unless ``-o`` names another, and nothing is overwritten without ``--force``. A
bad input gets one line on standard error, and the exit code is 2. A command is imported when it is called, so that help
comes at once.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from daps_tokenizer import __version__
from daps_tokenizer.cli.common import OneLineErrors, print_warning
from daps_tokenizer.cli.outputs import standard_output_error
from daps_tokenizer.cli.sources import STANDARD_STREAM, is_codes, is_folder

# Each is the `command` of the module with its name in this folder.
COMMANDS = {
    "encode": "Encode images and motion clips, each as a .daps file.",
    "decode": "Decode .daps files, or rows of a code set.",
    "reconstruct": "Encode and decode, and say how close the result is.",
    "generate": "Draw images or motion of a class.",
    "dataset": "Encode a whole dataset of images as one array of codes.",
    "convert": "Write codes in the formats of other loaders.",
    "evaluate": "Measure a model on a dataset.",
    "info": "Describe a model, codes, or this installation.",
    "doctor": "Check which runtimes work here, and how to fix the others.",
    "models": "List the built-in models and their quality.",
    "bench": "Time a model on this machine.",
}


class _Lazy(click.Command):
    """A command that is imported when it is called; until then its line of help stands for it."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        command: click.Command = import_module(f"daps_tokenizer.cli.{self.name}").command
        return command.make_context(info_name, args, parent, **extra)


class _Commands(OneLineErrors):
    """Takes a file in place of a command, and shows warnings as one line too."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table, which is that of use."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """``daps-tokenize cat.png`` encodes and ``daps-tokenize cat.daps`` decodes."""
        if self.get_command(ctx, args[0]) is None and _is_input(args[0]):
            # What begins with a dash came after "--", which click has taken away by now.
            is_option_like = args[0].startswith("-") and args[0] != STANDARD_STREAM
            args = ["decode" if is_codes(args[0]) else "encode", *["--"] * is_option_like, *args]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and print what it has printed while errors of that are still caught."""
        result = super().invoke(ctx)
        print(end="", flush=True)
        return result

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run, and exit: 0 if all went well, 2 on bad input, 130 when interrupted."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold what no terminal can show
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            super().main(*args, **options)

    def explain(self, error: OSError) -> str:
        """What could not be printed, since files have errors of their own; click has caught a broken pipe."""
        return str(standard_output_error(error) if error.strerror else error)


def _is_input(argument: str) -> bool:
    """Whether it names an input and not a command. A folder does; the command that gets it says what takes folders."""
    is_file = os.path.isfile(argument)  # noqa: PTH113 - Path.is_file raises an error where a folder may not be entered
    return argument == STANDARD_STREAM or bool(Path(argument).suffix) or is_file or is_folder(argument)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print_warning(str(message))


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="daps-tokenize")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Images and robot motion to discrete codes and back.

    `daps-tokenize cat.png` writes cat.daps, and `daps-tokenize cat.daps` writes cat.decoded.png. For motion, walk.csv
    becomes walk.daps, and that becomes walk.decoded.csv. Inputs are never overwritten, and other files only with
    --force. A dash (-) is standard input, whose type is read from its first bytes, or standard output.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _name, _line in COMMANDS.items():
    main.add_command(_Lazy(_name, help=_line))
