"""What the commands of ``daps-tokenize`` share: options, standard streams, names of outputs, many inputs in a row."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click

from daps_tokenizer.backends import BACKENDS, BackendName, open_backend
from daps_tokenizer.backends.protocol import Backend
from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.errors import CodesError, DapsError, InputError, OutputExistsError
from daps_tokenizer.files import write_bytes_atomically
from daps_tokenizer.hub import ModelFolder, open_model
from daps_tokenizer.tokenizer import Tokenizer

DEFAULT_MODEL = "daps-photo-256"
STANDARD_STREAM = "-"

Command = Callable[..., None]
Progress = Callable[[float], None]  # is told what share is done, in [0, 1]

force_option = click.option("--force", is_flag=True, help="Overwrite outputs that are already there.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, and nothing else.")


@dataclass(frozen=True)
class Runtime:
    """What runs a model, as chosen by ``--backend``, ``--device``, ``--dtype`` and ``--threads``."""

    backend: BackendName
    device: str | None
    dtype: str
    threads: int | None

    def open(self, folder: ModelFolder) -> Backend:
        """Load a model; errors as of :func:`~daps_tokenizer.backends.open_backend`."""
        return open_backend(
            folder, backend=self.backend, device=self.device, dtype=self.dtype, num_threads=self.threads
        )


def add_options(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    """Decorate a command with options, which its help lists in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def runtime_options(command: Command) -> Command:
    """Give a command the options that choose a runtime, and hand them to it as ``runtime``."""

    @functools.wraps(command)
    def with_runtime(
        *, backend: BackendName, device: str | None, dtype: str, threads: int | None, **others: Any
    ) -> None:
        command(runtime=Runtime(backend, device, dtype, threads), **others)

    backends = click.Choice(["auto", *BACKENDS])
    options: list[Callable[[Command], Command]] = [
        click.option("--backend", type=backends, default="auto", show_default=True, help="The runtime to use."),
        click.option("--device", help="cpu or cuda; default: the backend's own."),
        click.option("--dtype", default="float32", show_default=True, help="float32; on GPUs also float16, bfloat16."),
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: all cores."),
    ]
    return add_options(with_runtime, options)


class Tokenizers:
    """The models of one run, each opened when it is first asked for.

    Args:
        runtime: what runs them.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._opened: dict[str, tuple[Tokenizer, Backend]] = {}

    def __getitem__(self, model: str) -> tuple[Tokenizer, Backend]:
        """A model by its built-in name, folder or ``org/name``; errors of opening it."""
        if model not in self._opened:
            folder = open_model(model)
            backend = self._runtime.open(folder)
            self._opened[model] = Tokenizer(folder, backend), backend
        return self._opened[model]


class _StandardInput(io.BytesIO):
    name = "standard input"  # what errors call it


def open_source(source: str) -> str | _StandardInput:
    """The path itself, or all of standard input where the source is ``-``.

    Raises:
        InputError: standard input cannot be read, for instance where it is a folder.
    """
    if source != STANDARD_STREAM:
        return source
    try:
        return _StandardInput(sys.stdin.buffer.read())
    except OSError as error:
        raise InputError(f"{_StandardInput.name}: cannot be read ({error.strerror})") from error


def read_codes(source: str) -> Codes:
    """The codes in a file, or in standard input where the source is ``-``.

    Raises:
        CodesFileError: it cannot be read, or is no ``.daps`` file or a damaged one.
    """
    opened = open_source(source)
    return Codes.load(opened) if isinstance(opened, str) else Codes.from_bytes(opened.read(), source=opened.name)


def name_of(source: str, *, stream: str = "standard input") -> str:
    """How a source or an output is called in messages."""
    return stream if source == STANDARD_STREAM else source


class Outputs:
    """Where one run of a command writes: no file is overwritten without ``--force``, and none is written twice.

    Args:
        sources: all inputs of the run.
        named: the name that was given for the output, if any.
        ending: what names of outputs end with; the last suffix of it is that of the file type. None where that depends
            on the source, and is said when its name is claimed.
        force: whether files may be overwritten.
        as_json: whether standard output is taken by JSON.
        option: the option that names the output.

    Raises:
        click.UsageError: a name or ``-`` with several inputs, the wrong suffix, or data meant for a terminal.
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
        self._named, self._ending, self._force, self._option = named, ending, force, option
        self._written: dict[str, str] = {}  # for which source, by absolute path
        self._claiming = ""  # the source that is worked on
        if len(sources) > 1 and named:
            raise click.UsageError(f"{option} takes one input, not {len(sources)}.")
        if len(sources) > 1 and STANDARD_STREAM in sources:
            raise click.UsageError("'-' (standard input) must be the only input.")
        if self.to_stdout and as_json:
            raise click.UsageError("--json and the output both go to standard output; name a file with -o.")
        if self.to_stdout and sys.stdout.isatty():
            raise click.UsageError("standard output is a terminal; redirect it, or name a file with -o.")
        if ending is not None:
            self._check_suffix([ending])

    def claim(self, source: str, *, count: int = 1, endings: Sequence[str] = ()) -> list[str]:
        """Names of the ``count`` outputs of a source, none of which may be there already.

        Args:
            source: the input.
            count: how many outputs it has.
            endings: what names may end with, where the source decides; the first is for outputs that were not named.

        Raises:
            click.UsageError: the wrong suffix.
            OutputExistsError: one is there and may not be overwritten, or was written for another source of this run.
            CodesError: several outputs for standard output.
        """
        self._check_suffix(endings)
        ending = endings[0] if endings else self._ending
        if self.to_stdout:
            if count > 1:
                raise CodesError(f"{name_of(source)}: holds {count} items, standard output takes one; use -o NAME")
            return [STANDARD_STREAM]
        only = Path(self._named) if self._named else Path(source).parent / f"{Path(source).stem}{ending}"
        paths = [only] if count == 1 else [only.with_name(f"{only.stem}-{i}{only.suffix}") for i in range(count)]
        for path in paths:
            other = self._written.get(_absolute(path), source)
            if other != source:
                raise OutputExistsError(f"{source}: would be written to {path}, as {other} is; do it alone, with -o")
            if is_there(path) and not self._force:
                raise OutputExistsError(
                    f"{path} already exists; pass --force to overwrite it or name another with {self._option}"
                )
        self._claiming = source
        return [str(path) for path in paths]

    def _check_suffix(self, endings: Sequence[str]) -> None:
        suffixes = [Path(f"any{ending}").suffix for ending in endings]
        if self._named and not self.to_stdout and suffixes and Path(self._named).suffix.lower() not in suffixes:
            raise click.UsageError(
                f"{self._option} {self._named}: expected a name that ends with {' or '.join(suffixes)}."
            )

    def write(self, output: str, data: bytes) -> None:
        """Write a claimed output, whole or not at all.

        Raises:
            DapsError: its folder is missing, not writable or full, or standard output is.
            BrokenPipeError: nobody reads standard output any more.
        """
        if output != STANDARD_STREAM:
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
    """Whether there is something by this name; not where its folder may not be entered or the name cannot be one.

    ``Path.exists`` raises an error there; here writing says later what is wrong.
    """
    return os.path.exists(path)  # noqa: PTH110


def _absolute(path: str | Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - keeps symbolic links


def standard_output_error(error: OSError) -> DapsError:
    """What to raise or say where standard output cannot be written; what still waits to be printed is dropped.

    Python would try to print that once more as it exits, with a message of its own.
    """
    with contextlib.suppress(OSError):  # standard output has no descriptor while it is captured
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DapsError(f"standard output: cannot be written ({error.strerror})")


class Report(NamedTuple):
    """What was done with one input: a line for people, and a record for programs."""

    line: str
    record: dict[str, Any]


def for_each(
    sources: Sequence[str], work: Callable[[str, Progress], Report], *, as_json: bool, to_stderr: bool = False
) -> None:
    """Do the work for every source and print its report; bad sources are reported too, and do not stop the others.

    ``work`` may say from time to time what share of the source is done. Exits with 2 at the end if any source was bad.
    """
    failed = False
    with progress_bar(len(sources)) as show_done:
        for index, source in enumerate(sources):
            try:
                report = work(source, lambda share, before=index: show_done(before + share))  # type: ignore[misc]
            except DapsError as error:
                failed = True
                name, message = name_of(source), str(error)
                named = message.startswith((name, str(Path(name)), repr(name)))
                print_error(message if named else f"{name}: {message}")
            else:
                text = json.dumps(report.record, allow_nan=False) if as_json else report.line
                print(text, file=sys.stderr if to_stderr else sys.stdout, flush=True)
            show_done(index + 1)
    if failed:
        click.get_current_context().exit(2)


@contextlib.contextmanager
def progress_bar(total: int) -> Iterator[Callable[[float], None]]:
    """A bar on standard error while that is a terminal; yields the function that says how many are done."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich import progress
    from rich.console import Console

    columns: list[progress.ProgressColumn] = [
        progress.SpinnerColumn(),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    ]
    # Lines for a terminal are printed above the bar; lines for a pipe must not be caught.
    with progress.Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


def print_error(message: str) -> None:
    """One line on standard error."""
    print("error:", " ".join(message.splitlines()), file=sys.stderr, flush=True)


class OneLineErrors(click.Group):
    """Commands whose own errors are one line on standard error, with exit code 2: train, export and benchmarks."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except DapsError as error:
            print_error(str(error))
            ctx.exit(2)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(header):  # names, in the first column, are to be copied: the others make room
        table.add_column(name, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 200  # a pipe has no width that a table should fit into
    Console(width=width, markup=False, highlight=False).print(table)
