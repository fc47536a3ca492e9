"""The members of an uncompressed tar file, read from its headers alone.

Every step goes forward by at least one block and stays inside the file, whatever a header says: Python's ``tarfile``
loops for ever at a negative size, and takes a damaged header for the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from daps_tokenizer.errors import InputError

EXPECTED = "an uncompressed tar file, as webdataset writes it"
_BLOCK = 512
_FILES, _WITHOUT_CONTENT = (b"0", b"\0", b"7"), (b"1", b"2", b"3", b"4", b"5", b"6")
_LONG_NAME, _EXTENDED, _SPARSE = b"L", b"x", b"S"
_MOST_EXTENDED = 2**20  # bytes of a long name or of extended fields
_FIELD = re.compile(rb"(\d{1,7}) ([^=]+)=")


class Member(NamedTuple):
    """A regular file in a tar file: where its content begins, and how many bytes it has."""

    name: str
    offset: int
    size: int


def read_members(file: BinaryIO, source: str) -> Iterator[Member]:
    """The regular files in an open tar file, in their order; links, folders and devices are left out.

    Raises:
        InputError: it is no uncompressed tar file, damaged, cut short, or holds sparse files; ``source`` is its name.
    """
    end = file.seek(0, 2)
    place, long_name, fields = 0, b"", dict[bytes, bytes]()
    while place + _BLOCK <= end:
        file.seek(place)
        header = file.read(_BLOCK)
        if not header.strip(b"\0"):
            return
        kind, size = header[156:157], _number(header[124:136])
        if b"size" in fields:  # which a header's eleven digits are too short for
            size = int(fields[b"size"]) if fields[b"size"].isdigit() else None
        if size is None or _number(header[148:156]) != sum(header[:148]) + 256 + sum(header[156:]):
            raise _damaged(source, place)
        if kind == _SPARSE or any(name.startswith(b"GNU.sparse") for name in fields):
            raise InputError(f"{source}: holds sparse files; expected {EXPECTED}")
        content = place + _BLOCK
        size = 0 if kind in _WITHOUT_CONTENT else size
        if content + size > end:
            raise InputError(f"{source}: is cut short at byte {end}; expected {EXPECTED}")
        if kind in (_LONG_NAME, _EXTENDED):
            if size > _MOST_EXTENDED:
                raise _damaged(source, place)
            text = file.read(size)
            if kind == _LONG_NAME:
                long_name = text.rstrip(b"\0")
            else:
                fields = _fields(text)
        elif kind in _FILES:
            name = fields.get(b"path") or long_name or _name(header)
            yield Member(name.decode(errors="surrogateescape"), content, size)
        if kind not in (_LONG_NAME, _EXTENDED):
            long_name, fields = b"", {}
        place = content + -(-size // _BLOCK) * _BLOCK
    if place < end:
        raise _damaged(source, place)
    if place > end:
        raise InputError(f"{source}: is cut short at byte {end}; expected {EXPECTED}")


def _damaged(source: str, place: int) -> InputError:
    return InputError(f"{source}: is damaged at byte {place}; expected {EXPECTED}")


def _name(header: bytes) -> bytes:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _number(field: bytes) -> int | None:
    """A size or checksum, octal text or binary; None where it is neither, or negative."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    try:
        return int(text, 8) if (text := field.partition(b"\0")[0].strip()).isdigit() else None
    except ValueError:
        return None


def _fields(text: bytes) -> dict[bytes, bytes]:
    """Extended fields, ``LENGTH NAME=VALUE`` each."""
    found, place = dict[bytes, bytes](), 0
    while match := _FIELD.match(text, place):
        length = int(match[1])
        if length <= match.end() - place:
            break
        found[match[2]] = text[match.end() : place + length - 1]
        place += length
    return found
