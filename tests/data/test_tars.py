"""Tar files by their headers: the files that Python's tarfile sees, and one error for whatever is hostile."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from daps_tokenizer.data.sources import TarSource
from daps_tokenizer.data.tars import read_members
from daps_tokenizer.errors import InputError


def tar(*members: tuple[str, bytes], kind: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def read(content: bytes) -> dict[str, bytes]:
    return {
        member.name: content[member.offset : member.offset + member.size]
        for member in read_members(io.BytesIO(content), "a.tar")
    }


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_files_are_those_that_were_written(kind: int) -> None:
    members = {"a.png": b"1", "b/" * 40 + "c.png": b"2" * 513, "d.png": b"", "e.png": b"3" * 512}
    if kind != tarfile.USTAR_FORMAT:
        members |= {"long/" * 60 + "ü.png": b"4"}
    assert read(tar(*members.items(), kind=kind)) == members


def test_links_folders_and_devices_are_left_out() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"{kind!r}.png")
            info.type, info.linkname, info.size = kind, "/etc/passwd", 0
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("a.png"))
    assert read(file.getvalue()) == {"a.png": b""}


def with_field(content: bytes, place: int, field: bytes) -> bytes:
    """The first header changed, with a checksum that fits."""
    header = bytearray(content[:512])
    header[place : place + len(field)] = field
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + content[512:]


@pytest.mark.parametrize(
    ("place", "field", "said"),
    [
        (124, b"\xff" * 12, "damaged at byte 0"),  # a size of -1, at which tarfile loops for ever
        (124, b"\x80" + b"\xff" * 11, "cut short"),  # 2 ** 88
        (124, b"-0000000777\0", "damaged at byte 0"),
        (124, b"99999999999\0", "damaged at byte 0"),
        (124, b"77777777777\0", "cut short"),
        (156, b"S", "holds sparse files"),
    ],
)
def test_hostile_headers_are_one_error(place: int, field: bytes, said: str) -> None:
    content = with_field(tar(("a.png", b"1")), place, field)
    with pytest.raises(
        InputError, match=f"a.tar: .*{said}.*; expected an uncompressed tar file, as webdataset writes it"
    ):
        read(content)


def test_chains_of_headers_end() -> None:
    extended = with_field(tar(("x", b"")), 156, b"x")[:512]
    assert read(extended * 1_000 + tar(("a.png", b"1"))) == {"a.png": b"1"}


def test_whatever_is_changed_in_a_tar_file_ends_as_files_or_as_one_error() -> None:
    whole, random = tar(*((f"{number}.png", bytes(700)) for number in range(4)), kind=tarfile.PAX_FORMAT), np.random
    draws = random.default_rng(0)
    outcomes = set()
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(draws.integers(1, 6)):
            content[draws.integers(len(content))] = draws.integers(256)
        try:
            outcomes.add(len(read(bytes(content[: draws.integers(len(content) + 1)]))))
        except InputError:
            outcomes.add(-1)
    assert {-1, 4} <= outcomes


@pytest.mark.parametrize("label", [b"cat", b"1_0", b"3.5", b"9" * 30, b"7" * 10_000, b""])
def test_labels_that_are_no_numbers_are_one_error(label: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar(("a.png", b"1"), ("a.cls", label)))
    source = TarSource.index([(str(tmp_path / "a.tar"), 0)], str(tmp_path))
    with pytest.raises(InputError, match=r"a\.tar, a\.cls: is .*; expected a class's number"):
        source.labels()
