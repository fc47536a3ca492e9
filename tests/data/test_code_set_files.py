"""Code sets on the disk: killed at every call of the file system, and written to by two processes at once."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from daps_tokenizer import CodesFileError, InUseError
from daps_tokenizer.data import code_set_files
from daps_tokenizer.data.code_set_files import WHOLE, Shard, writing
from daps_tokenizer.data.code_sets import CodeSet, merge_shards
from daps_tokenizer.data.converters import convert, rows_of_set
from tests.data.kills import files, is_killed_at, record, seeds_in, write
from tests.paths import ROOT


@pytest.fixture(autouse=True)
def every_batch_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_set_files, "SECONDS_BETWEEN_NOTES", 0.0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where that is possible, since every step waits for the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


def test_a_set_killed_at_any_call_is_resumed_to_the_same_files(folder: Path) -> None:
    write(folder / "whole")
    calls = 0
    while is_killed_at(calls, partial(write, folder / f"{calls}")):
        try:
            assert seeds_in(folder / f"{calls}") == {0}
        except CodesFileError as error:
            assert "is not complete" in str(error) or "holds no codes" in str(error)
        write(folder / f"{calls}")
        assert files(folder / f"{calls}") == files(folder / "whole")
        calls += 1
    assert calls > 40 and seeds_in(folder / f"{calls}") == {0}


def test_a_set_killed_at_any_call_while_it_replaces_another_is_the_old_one_or_the_new_one(folder: Path) -> None:
    write(folder / "old", seed=0)
    write(folder / "new", seed=1)
    calls, kept = 0, set()
    while True:
        place = folder / f"{calls}"
        write(place, seed=0)
        if not is_killed_at(calls, partial(write, place, seed=1, replace=True)):
            break
        (seed,) = seeds_in(place)
        kept.add(seed)
        if seed == 0 and not (place / "progress.json").exists():  # who goes on with the old set finds no trace
            write(place, seed=0, replace=True)
            assert files(place) == files(folder / "old")
        write(place, seed=1, replace=True)
        assert files(place) == files(folder / "new")
        calls += 1
    assert calls > 40 and kept == {0, 1}


def test_a_shard_killed_at_any_call_is_resumed_to_the_same_files(folder: Path) -> None:
    write(folder / "whole", shard=Shard(0, 2))
    write(folder / "whole", shard=Shard(1, 2))
    calls = 0
    while is_killed_at(calls, partial(write, folder / f"{calls}", shard=Shard(1, 2))):
        for index in range(2):
            write(folder / f"{calls}", shard=Shard(index, 2))
        assert files(folder / f"{calls}") == files(folder / "whole") and seeds_in(folder / f"{calls}") == {0}
        calls += 1
    assert calls > 40


def test_shards_killed_at_any_call_while_they_are_merged_are_merged_by_the_next(folder: Path) -> None:
    write(folder / "whole")
    for index in range(2):
        write(folder / "shards", shard=Shard(index, 2))
    calls = 0
    while is_killed_at(calls, partial(merge_shards, folder / "shards", folder / f"{calls}")):
        merge_shards(folder / "shards", folder / f"{calls}")
        assert files(folder / f"{calls}") == files(folder / "whole")
        calls += 1
    assert calls > 40


def test_of_two_processes_on_one_set_one_wins_and_the_other_is_told(folder: Path) -> None:
    with writing(folder, WHOLE):
        for shard in (WHOLE, Shard(0, 2)):
            with pytest.raises(InUseError, match=f": process {os.getpid()} writes here; wait until it ends, or name"):
                write(folder, shard=shard)
    write(folder)


def test_shards_are_written_at_the_same_time_but_each_by_one_process(folder: Path) -> None:
    with writing(folder, Shard(0, 2)):
        with pytest.raises(InUseError, match=f"process {os.getpid()} writes here"):
            write(folder, shard=Shard(0, 2))
        with pytest.raises(InUseError, match="another process writes here"):
            write(folder)
        write(folder, shard=Shard(1, 2))
    write(folder, shard=Shard(0, 2))
    assert seeds_in(folder) == {0} and not any(path.name.startswith(".lock") for path in folder.iterdir())


def test_the_lock_of_a_killed_process_is_free(folder: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from daps_tokenizer.data.code_set_files import WHOLE, writing\n"
        f"with writing(Path({str(folder)!r}), WHOLE): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL and (folder / ".lock").exists()
    write(folder)
    assert seeds_in(folder) == {0} and not (folder / ".lock").exists()


def test_a_lock_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("text")
    (folder / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(Exception, match="cannot be written"):
        write(folder)
    assert (tmp_path / "mine").read_text() == "text"


def test_a_folder_that_was_made_for_a_lock_alone_does_not_stay(folder: Path) -> None:
    with writing(folder / "new", WHOLE):
        pass
    assert not (folder / "new").exists()
    (folder / "mine").mkdir()
    with writing(folder / "mine", WHOLE):
        pass
    assert (folder / "mine").exists()


def test_a_record_of_another_version_is_named(folder: Path) -> None:
    (folder / "dataset.json").write_text(json.dumps(record(0, 1) | {"format": 1}))
    with pytest.raises(CodesFileError, match=r"dataset\.json: is not the record of a code set of this version"):
        CodeSet.open(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("shards", 2**31), ("rows", "3"), ("rows", -1), ("row_shape", [10**400]), ("model", None), ("classes", [1])],
)
def test_a_record_with_a_strange_value_is_refused(folder: Path, name: str, value: object) -> None:
    write(folder)
    about = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(about | {name: value}))
    with pytest.raises(CodesFileError, match=rf"dataset\.json: is damaged, its {name} has no valid value"):
        CodeSet.open(folder)


@pytest.mark.parametrize("name", ["dataset.json", "codes.npy", "labels.npy", "items.jsonl"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(folder: Path, name: str) -> None:
    write(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CodesFileError, match=rf"{name}: cannot be read .*not a regular file"):
        list(CodeSet.open(folder).items())


@pytest.mark.parametrize(("first", "more", "said"), [(1, 0, "2"), (0, 1, "more than 3")])
def test_lines_that_are_missing_or_too_many_are_noticed(folder: Path, first: int, more: int, said: str) -> None:
    write(folder)
    path = folder / "items.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[first:] + lines[:more]))
    with pytest.raises(CodesFileError, match=rf"items\.jsonl: has {said} lines, for 3 rows; it is damaged"):
        list(CodeSet.open(folder).items())


def test_codes_that_the_model_does_not_have_are_not_converted(folder: Path, tmp_path: Path) -> None:
    write(folder)
    about = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(about | {"vocab_size": 2}))
    with pytest.raises(CodesFileError, match="after row 0: codes or labels are out of range; the set is damaged"):
        convert(rows_of_set(CodeSet.open(folder)), "jsonl", tmp_path / "converted")
    assert not (tmp_path / "converted").exists()
