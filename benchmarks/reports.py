"""Reports: JSON with everything, and for people what was measured, by which command, a table, notes, the machine."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from daps_tokenizer.evaluation.timing import describe_machine, machine_line
from daps_tokenizer.files import write_files_of_one_name

RESULTS = Path(__file__).parent / "results"  # of the shipped weights
STUDIES = RESULTS / "studies"  # made once, each with the weights it names


def command_line() -> str:
    """The command that is running, as reports quote it."""
    return shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])


def with_command(**content: Any) -> dict[str, Any]:
    """What a report holds, with the command that is running and the machine."""
    return {"command": command_line(), "machine": describe_machine(), **content}


def show(paths: Iterable[Path]) -> None:
    """Print where the files of a report are."""
    for path in paths:
        click.echo(path)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def short(value: float) -> str:
    """A time with about three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def report(title: str, commands: Sequence[str], *paragraphs: str, machine: dict[str, str] | None) -> str:
    """A whole Markdown file.

    Args:
        title: without ``#``.
        commands: that measured, one a line.
        paragraphs: tables and notes.
        machine: as from :func:`~daps_tokenizer.evaluation.timing.describe_machine`, without which no
            number is a measurement; None where a paragraph names it.
    """
    quoted = "\n".join(f"`{command}`" for command in commands)
    ending = [] if machine is None else [f"{machine_line(machine)}."]
    return "\n\n".join([f"# {title}", quoted, *paragraphs, *ending]) + "\n"


def machine_lines(measured: Iterable[tuple[str, dict[str, str]]]) -> str:
    """A line for each machine, for a report whose parts were measured on several.

    Args:
        measured: the name of each part, and its machine as from
            :func:`~daps_tokenizer.evaluation.timing.describe_machine`.
    """
    names: dict[str, dict[str, None]] = {}
    for name, machine in measured:
        names.setdefault(machine_line(machine), {})[name] = None
    return "\n".join(f"{', '.join(those)}: {machine}" for machine, those in names.items())


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of this size in inches, whatever the screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    return FigureCanvasAgg(Figure((width, height), layout="constrained")).figure


def png_of(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()


def write_report(folder: Path, name: str, content: object, text: str, picture: bytes | None = None) -> list[Path]:
    """Write ``NAME.json``, ``NAME.md`` and, where there is a picture, ``NAME.png``; returns their paths.

    All are made before the first is written, and each is there whole or not at all.

    Args:
        folder: where to; made where it is not there.
        name: of the files.
        content: what JSON can hold.
        text: as from :func:`report`.
        picture: as from :func:`png_of`.
    """
    files = {"json": json_bytes(content), "md": text.encode()} | ({} if picture is None else {"png": picture})
    return write_files_of_one_name(folder, name, files)


def json_bytes(content: object) -> bytes:
    """Indented JSON that ends with a line break."""
    return (json.dumps(content, indent=1) + "\n").encode()
