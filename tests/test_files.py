"""Output files are there whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from daps_tokenizer.errors import DapsError, OutputExistsError
from daps_tokenizer.files import write_bytes_atomically


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_new_file_holds_the_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_bytes_atomically(tmp_path / "new.bin", b"content")
    assert (tmp_path / "new.bin").read_bytes() == b"content"
    assert names_in(tmp_path) == ["new.bin"]


def test_a_file_that_is_there_is_replaced_by_default(tmp_path: Path) -> None:
    path = tmp_path / "old.bin"
    path.write_bytes(b"a longer old content")
    write_bytes_atomically(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert names_in(tmp_path) == ["old.bin"]


def test_a_file_that_is_there_is_kept_without_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "old.bin"
    path.write_bytes(b"old")
    with pytest.raises(OutputExistsError, match=r"old\.bin: already exists"):
        write_bytes_atomically(path, b"new", overwrite=False)
    assert path.read_bytes() == b"old"
    write_bytes_atomically(tmp_path / "new.bin", b"new", overwrite=False)
    assert (tmp_path / "new.bin").read_bytes() == b"new"


def test_others_may_read_the_file_as_any_other_new_file(tmp_path: Path) -> None:
    write_bytes_atomically(tmp_path / "atomic.bin", b"")
    (tmp_path / "plain.bin").write_bytes(b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("atomic.bin", "plain.bin")]
    assert modes[0] == modes[1]


def test_a_symbolic_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "target.bin").write_bytes(b"old")
    (tmp_path / "link.bin").symlink_to("target.bin")
    write_bytes_atomically(tmp_path / "link.bin", b"new")
    assert (tmp_path / "link.bin").is_symlink()
    assert (tmp_path / "target.bin").read_bytes() == b"new"


def test_a_folder_or_a_device_is_never_replaced(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path, fifo):
        with pytest.raises(OutputExistsError, match="is not a regular file; give the name of a file"):
            write_bytes_atomically(path, b"content")
    assert stat.S_ISFIFO(fifo.stat().st_mode)


@pytest.mark.parametrize("name", ["missing/new.bin", "n" * 300, "null\0.bin"])
def test_a_path_that_cannot_be_written_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(DapsError, match=r"cannot be written \(.+\)$") as caught:
        write_bytes_atomically(tmp_path / name, b"content")
    assert repr(str(tmp_path / name)) in str(caught.value)
    assert names_in(tmp_path) == []


def test_a_failure_half_way_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # not on Windows
    path = tmp_path / "old.bin"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))  # as if the disk were full
    try:
        with pytest.raises(DapsError, match=r"old\.bin': cannot be written \(File too large\)"):
            write_bytes_atomically(path, bytes(2_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["old.bin"]
