"""Where the commands write: inputs are never overwritten, other files with ``--force`` alone."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from daps_tokenizer.cli.sources import STANDARD_STREAM, name_of
from daps_tokenizer.errors import CodesError, DapsError, OutputExistsError, reason_of
from daps_tokenizer.files import write_bytes_atomically

_STEM_OF_STANDARD_INPUT = "stdin"


class Outputs:
    """Where one run of a command writes: no input is overwritten, and no other file without ``--force``.

    Args:
        sources: all inputs of the run.
        named: the name that was given for the output, if any. A name that ends with ``/``, or is an existing folder,
            is the folder of all outputs, which is made if it is missing.
        ending: what names of outputs end with; the last suffix of it is that of the file type. None where that depends
            on the source, and is given when its name is claimed.
        force: whether files may be overwritten.
        as_json: whether standard output is taken by JSON.
        option: the option that names the output.

    Raises:
        click.UsageError: one name for several inputs, ``-`` among several inputs, the wrong suffix, or data meant for a
            terminal.
    """

    def __init__(
        self,
        sources: Sequence[str],
        named: str | None,
        *,
        ending: str | None = None,
        force: bool,
        as_json: bool = False,
        option: str = "-o",
    ) -> None:
        self.to_stdout = STANDARD_STREAM in ([named] if named else sources)
        self._folder = Path(named) if named and is_folder_name(named) else None
        self._named = None if self._folder else named
        self._ending, self._force, self._option = ending, force, option
        self._sources = {os.path.realpath(source) for source in sources if source != STANDARD_STREAM}
        self._written: dict[str, str] = {}  # for which source, by absolute path
        self._claiming = ""  # the source in progress
        if len(sources) > 1 and self._named:
            raise click.UsageError(
                f"{option} {named} names one file for {len(sources)} inputs; "
                f"{option} {Path(self._named).stem}/ names a folder."
            )
        if len(sources) > 1 and STANDARD_STREAM in sources:
            raise click.UsageError("'-' (standard input) must be the only input.")
        if self.to_stdout and as_json:
            raise click.UsageError("--json and the output both go to standard output; name a file with -o.")
        if self.to_stdout and sys.stdout.isatty():
            raise click.UsageError("standard output is a terminal; redirect it, or name a file with -o.")
        if ending is not None:
            self._check_suffix([ending])

    def claim(
        self, source: str, *, numbers: Sequence[str] = ("",), endings: Sequence[str] = (), is_file: bool = True
    ) -> list[str]:
        """Names of the outputs of a source, none of which may exist already.

        Args:
            source: the input.
            numbers: what tells several outputs of the source apart; one output has an empty one.
            endings: what names may end with, where the source decides; the first is for outputs that were not named.
            is_file: whether the source is a file; otherwise it is what outputs that were not named are called.

        Raises:
            click.UsageError: the wrong suffix.
            OutputExistsError: one is an input, exists and may not be overwritten, or was written for another source.
            CodesError: several outputs for standard output.
            DapsError: the folder of an output that was named is not there.
        """
        self._check_suffix(endings)
        ending = endings[0] if endings else self._ending
        if self.to_stdout:
            if len(numbers) > 1:
                raise CodesError(
                    f"{name_of(source)}: holds {len(numbers)} items, and standard output takes one; use -o NAME"
                )
            return [STANDARD_STREAM]
        only = Path(self._named) if self._named else self._default(source, ending or "", is_file)
        if self._named and _is_missing(only.parent):
            raise DapsError(
                f"{only}: cannot be written, as there is no folder {only.parent}; make it, or let "
                f"{self._option} {only.parent}/ make it"
            )
        paths = [only.with_name(f"{only.stem}-{number}{only.suffix}") if number else only for number in numbers]
        for path in paths:
            other = self._written.get(_absolute(path), source)
            if os.path.realpath(path) in self._sources:
                raise OutputExistsError(
                    f"{path} is an input of this command, which is never overwritten; name another with {self._option}"
                )
            if other != source:
                raise OutputExistsError(f"{source}: would be written to {path}, as {other} is; run it alone with -o")
            if is_there(path) and not self._force:
                raise OutputExistsError(
                    f"{path} already exists; pass --force to overwrite it or name another with {self._option}"
                )
        self._claiming = source
        return [str(path) for path in paths]

    def _default(self, source: str, ending: str, is_file: bool) -> Path:
        """The name of an output that was not named: that of its source, with another ending."""
        if not is_file:
            return (self._folder or Path()) / f"{source}{ending}"
        stem = _STEM_OF_STANDARD_INPUT if source == STANDARD_STREAM else Path(_absolute(source)).stem
        return (self._folder or Path(source).parent) / f"{stem}{ending}"

    def _check_suffix(self, endings: Sequence[str]) -> None:
        suffixes = [Path(f"any{ending}").suffix for ending in endings]
        if self._named and not self.to_stdout and suffixes and Path(self._named).suffix.lower() not in suffixes:
            raise click.UsageError(
                f"{self._option} {self._named}: expected a name that ends with {' or '.join(suffixes)}, "
                "or with / for a folder."
            )

    def write(self, output: str, data: bytes) -> None:
        """Write a claimed output, whole or not at all.

        Raises:
            DapsError: its folder is missing, not writable or full, or standard output is.
            BrokenPipeError: nobody reads standard output any more.
        """
        if output != STANDARD_STREAM:
            if self._folder:
                _make_folder(self._folder)
            write_bytes_atomically(output, data, overwrite=self._force)
            self._written[_absolute(output)] = self._claiming
            return
        stdout = sys.stdout.buffer
        try:
            stdout.write(data)
            stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise standard_output_error(error) from error


def is_there(path: str | Path) -> bool:
    """Whether a file or folder has this name; False where its folder may not be entered or the name cannot be one.

    ``Path.exists`` raises an error there; here writing says later what is wrong.
    """
    return os.path.exists(path)  # noqa: PTH110


def _is_missing(folder: Path) -> bool:
    """Whether there is surely no such folder; writing says later what is wrong with one that may not be entered."""
    try:
        folder.stat()
    except (OSError, ValueError) as error:  # ValueError: a name that holds a null character
        return isinstance(error, FileNotFoundError)
    return False


def is_folder_name(name: str) -> bool:
    """Whether an output that goes by this name is a folder of outputs."""
    return name.endswith(("/", os.sep)) or os.path.isdir(name)  # noqa: PTH112 - see is_there


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a name that holds a null character
        raise DapsError(f"{str(folder)!r}: cannot be made ({reason_of(error)}); name another folder") from error


def _absolute(path: str | Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - keeps symbolic links


def standard_output_error(error: OSError) -> DapsError:
    """What to raise or say where standard output cannot be written; what still waits to be printed is dropped.

    Python would try to print that once more as it exits, with a message of its own.
    """
    with contextlib.suppress(OSError):  # standard output has no descriptor while it is captured
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DapsError(f"standard output: cannot be written ({error.strerror})")
