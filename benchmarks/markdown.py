"""Reports for people: what was measured, by which command, a table, what one must know of it, on which machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from daps_tokenizer.measure import machine_line


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def report(title: str, commands: Sequence[str], *paragraphs: str, machine: dict[str, str]) -> str:
    """A whole Markdown file.

    Args:
        title: without ``#``.
        commands: that measured, one a line.
        paragraphs: tables and notes.
        machine: as from :func:`~daps_tokenizer.measure.describe_machine`; a number without it is not a measurement.
    """
    quoted = "\n".join(f"`{command}`" for command in commands)
    return "\n\n".join([f"# {title}", quoted, *paragraphs, f"{machine_line(machine)}."]) + "\n"
