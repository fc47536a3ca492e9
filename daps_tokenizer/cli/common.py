"""How the commands speak: reports, notes and errors of one line, tables, progress, many inputs in a row."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click

from daps_tokenizer.cli.sources import name_of
from daps_tokenizer.errors import INTERRUPTED, DapsError, printable

Progress = Callable[[float], None]  # is told what share is done, in [0, 1]

_BAD_INPUT = DapsError.exit_code
_NOTES = "daps_tokenizer.notes"  # where the context of a run keeps what was said


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
                name, message = printable(name_of(source)), str(error)
                named = message.startswith((name, str(Path(name)), repr(name)))
                print_error(message if named else f"{name}: {message}")
            else:
                text = json.dumps(report.record, allow_nan=False) if as_json else printable(report.line)
                print(text, file=sys.stderr if to_stderr else sys.stdout, flush=True)
            show_done(index + 1)
    if failed:
        click.get_current_context().exit(2)


@contextlib.contextmanager
def progress_bar(total: int, *, with_text: bool = False) -> Iterator[Callable[..., None]]:
    """A bar on standard error while that is a terminal.

    Yields the function that says how many are done; ``with_text``, also what to write after the bar in place of the
    remaining time.
    """
    if not sys.stderr.isatty():
        yield lambda done, text="": None
        return
    from rich import progress
    from rich.console import Console

    columns: list[progress.ProgressColumn] = [
        progress.SpinnerColumn(),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TaskProgressColumn(),  # in percent, as a large input is done in parts
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.description}") if with_text else progress.TimeRemainingColumn(),
    ]
    # Lines for a terminal are printed above the bar; lines for a pipe must not be caught.
    with progress.Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, text="": bar.update(task, completed=done, description=text)


def print_error(message: str) -> None:
    """One line on standard error."""
    _print_line("error", message)


def print_warning(message: str) -> None:
    """One line on standard error."""
    _print_line("warning", message)


def note_once(kind: str, message: str) -> None:
    """One line on standard error, unless a note of this kind was printed before in this run."""
    said: set[str] = click.get_current_context().meta.setdefault(_NOTES, set())
    if kind not in said:
        said.add(kind)
        _print_line("note", message)


def _print_line(kind: str, message: str) -> None:
    print(f"{kind}:", printable(message), file=sys.stderr, flush=True)


class OneLineErrors(click.Group):
    """Commands whose errors are one line on standard error, with exit code 2, or 130 where they were interrupted."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = False,
        **extra: Any,
    ) -> NoReturn:
        """Run, and exit."""
        try:
            # Not standalone: click's own message for a usage error takes four lines.
            status = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.Abort:
            sys.exit(INTERRUPTED)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(_BAD_INPUT)
        except click.UsageError as error:
            command = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
            print_error(error.format_message().rstrip(".") + command)
            sys.exit(_BAD_INPUT)
        except DapsError as error:
            print_error(str(error))
            sys.exit(error.exit_code)
        except click.ClickException as error:
            print_error(str(error))
            sys.exit(_BAD_INPUT)
        except OSError as error:
            print_error(self.explain(error))
            sys.exit(_BAD_INPUT)
        sys.exit(status if isinstance(status, int) else 0)

    def explain(self, error: OSError) -> str:
        """One line of what the system refused: a disk that is full, a folder that may not be written."""
        if not error.strerror:
            raise error
        return f"{error.filename or 'a file'}: {error.strerror}"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(header):  # names, in the first column, are to be copied: the others make room
        table.add_column(name, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 200  # a pipe has no width that a table should fit into
    Console(width=width, markup=False, highlight=False).print(table)
