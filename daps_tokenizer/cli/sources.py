"""Where the commands read from: files, and standard input, whose kind its first bytes say."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from daps_tokenizer.errors import InputError
from daps_tokenizer.files import read_regular_file

if TYPE_CHECKING:
    from daps_tokenizer.codes.codes import Codes

STANDARD_STREAM = "-"
DEFAULT_MODEL = "daps-photo-256"
MOTION_MODELS = {"h1": "daps-h1-motion", "g1": "daps-g1-motion"}  # by the name of the robot

_START_OF_CODES = b"DAPS"
_START_OF_NPZ = b"PK"
_MEMORY = "daps_tokenizer.standard_input"  # where the context of a run keeps it


class StandardInput(io.BytesIO):
    """All of standard input; errors call it by its name."""

    name = "standard input"


def standard_input() -> bytes:
    """All of standard input, which is read once in a run.

    Raises:
        InputError: it cannot be read, for instance where it is a folder.
    """
    memory = click.get_current_context().meta
    if _MEMORY not in memory:
        try:
            memory[_MEMORY] = sys.stdin.buffer.read()
        except OSError as error:
            raise InputError(f"{StandardInput.name}: cannot be read ({error.strerror})") from error
    content: bytes = memory[_MEMORY]
    return content


def open_source(source: str) -> str | StandardInput:
    """The path itself, or all of standard input where the source is ``-``; errors of :func:`standard_input`."""
    return StandardInput(standard_input()) if source == STANDARD_STREAM else source


def read_codes(source: str) -> Codes:
    """The codes in a file, or in standard input where the source is ``-``.

    Raises:
        CodesFileError: it cannot be read, is not a ``.daps`` file, or is damaged.
    """
    from daps_tokenizer.codes.codes import Codes

    opened = open_source(source)
    return Codes.load(opened) if isinstance(opened, str) else Codes.from_bytes(opened.read(), source=opened.name)


def name_of(source: str, *, stream: str = StandardInput.name) -> str:
    """How a source or an output is called in messages."""
    return stream if source == STANDARD_STREAM else source


def is_folder(source: str) -> bool:
    """Whether a source is a folder; False where its parent may not be entered."""
    return os.path.isdir(source)  # noqa: PTH112 - Path.is_dir raises an error there


def is_codes(source: str) -> bool:
    """Whether a source holds codes: a file by its suffix, standard input by its first bytes."""
    if source == STANDARD_STREAM:
        return standard_input().startswith(_START_OF_CODES)
    return Path(source).suffix.lower() == ".daps"


def default_model(source: str) -> str:
    """The built-in model for a source: a file is judged by its suffix, standard input by its first bytes, and a clip by
    the robot that it is of."""
    from daps_tokenizer.motion.clip_files import FORMATS, MOST_BYTES

    if source == STANDARD_STREAM:
        content = standard_input()
        return _motion_model(content, source) if _looks_like_a_clip(content) else DEFAULT_MODEL
    if Path(source).suffix.lower() not in FORMATS:
        return DEFAULT_MODEL
    try:
        return _motion_model(read_regular_file(source, most_bytes=MOST_BYTES), source)
    except (OSError, ValueError):  # ValueError: a name that holds a null character
        return MOTION_MODELS["h1"]  # whoever reads the clip says what is wrong with it


def _motion_model(content: bytes, source: str) -> str:
    """The built-in model of a clip's robot."""
    from daps_tokenizer.motion import clip_files

    try:
        return MOTION_MODELS[clip_files.read_all(content, source)[0].robot.name]
    except InputError:
        return MOTION_MODELS["h1"]  # whoever reads the clip says what is wrong with it


def _looks_like_a_clip(content: bytes) -> bool:
    """Whether bytes begin like an NPZ archive, or like a line of text with commas."""
    line = content[:4096].partition(b"\n")[0]
    return content.startswith(_START_OF_NPZ) or (b"," in line and line.strip(b"\r\xef\xbb\xbf").isascii())


def holds_code_set(folder: str) -> bool:
    """Whether `daps-tokenize dataset` writes or wrote to a folder; False where it may not be entered."""
    records = (os.path.join(folder, name) for name in ("dataset.json", "progress.json"))  # noqa: PTH118
    return any(os.path.isfile(record) for record in records)  # noqa: PTH113 - Path.is_file raises an error there


def check_not_a_folder(source: str) -> None:
    """Refuse a folder where a file is needed.

    Raises:
        InputError: it is a folder; the message names the command that takes it.
    """
    if not is_folder(source):
        return
    if holds_code_set(source):
        raise InputError(
            f"{source}: is a folder of codes; `daps-tokenize info {source}` describes it, and "
            f"`daps-tokenize decode {source} --rows 0:16` decodes some of its rows"
        )
    pattern = Path(source) / "*.png"
    raise InputError(
        f"{source}: is a folder; `daps-tokenize dataset {source} -o codes` encodes all of its images as one array, "
        f"or pass {pattern} to name each file"
    )
