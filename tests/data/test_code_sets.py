"""A dataset as codes: what a call leaves unfinished another resumes, and nothing has its name before it is whole."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.dataset import run_together
from daps_tokenizer import (
    BestOf,
    CodesFileError,
    DapsError,
    InputError,
    LocalSearch,
    OutputExistsError,
    Tokenizer,
)
from daps_tokenizer.data import code_set_writer
from daps_tokenizer.data.code_set_files import Shard
from daps_tokenizer.data.code_set_writer import CodeSetReport, write_code_set
from daps_tokenizer.data.code_sets import CodeSet, merge_shards
from daps_tokenizer.data.datasets import ArrayData, ImageFiles, open_data
from daps_tokenizer.ways import Made, Sampled, make_codes
from tests.photographs import encode_image, noise_photo, write_tar
from tests.test_tokenizer import digits

ITEMS = 7
FILES = {"codes.npy", "labels.npy", "items.jsonl", "skipped.jsonl", "dataset.json"}


@pytest.fixture(scope="module")
def tok(random_mnist_folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(random_mnist_folder)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_set_writer, "BATCH", 2)


def labelled(count: int = ITEMS) -> ArrayData:
    return ArrayData(digits(count), "digits", labels=np.arange(count))


def write(tok: Tokenizer, folder: Path, way: Any = None, **changes: Any) -> CodeSetReport:
    data = changes.pop("data", labelled())
    return write_code_set(tok, data, folder, way, **changes)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lines(folder: Path, name: str = "items.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_every_item_is_a_row_of_the_smallest_type_with_its_name_and_label(tok: Tokenizer, tmp_path: Path) -> None:
    folder, done = tmp_path / "new" / "codes", list[int]()
    assert write(tok, folder, on_progress=done.append) == (ITEMS, 0, ITEMS)
    codes, labels = np.load(folder / "codes.npy"), np.load(folder / "labels.npy")
    assert codes.dtype == (np.uint8 if tok.vocab_size <= 256 else np.uint16)
    np.testing.assert_array_equal(codes, tok.encode(digits(ITEMS)).numpy())
    assert labels.dtype == np.int64 and labels.tolist() == list(range(ITEMS))
    assert lines(folder) == [{"item": str(index), "label": index} for index in range(ITEMS)]
    record = json.loads((folder / "dataset.json").read_text())
    assert record["model"] == tok.config.name and record["rows"] == ITEMS and record["encoding"] == {"codes": "greedy"}
    assert record["vocab_size"] == record["first_free_id"] == tok.vocab_size
    assert record["num_tokens"] == tok.num_tokens and record["token_grid"] == tok.token_grid and not record["flip"]
    assert done == [0, 2, 4, 6, 7] and set(files(folder)) == FILES


def test_samples_have_an_axis_of_their_own_and_do_not_depend_on_what_they_are_drawn_with(
    tok: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tok, tmp_path / "a", Sampled(3), seed=5)
    monkeypatch.setattr(code_set_writer, "BATCH", 64)
    write(tok, tmp_path / "b", Sampled(3), seed=5)
    codes = np.load(tmp_path / "a" / "codes.npy")
    assert codes.shape == (ITEMS, 3, tok.num_tokens) and files(tmp_path / "a") == files(tmp_path / "b")
    alone = tok.sample(digits(ITEMS)[3:4], num_samples=3, seed=[5 * 2**64 + 3])
    np.testing.assert_array_equal(codes[3:4], alone.numpy())
    write(tok, tmp_path / "c", Sampled(3), seed=6)
    assert (np.load(tmp_path / "c" / "codes.npy") != codes).any()


def test_the_best_of_samples_does_not_depend_on_what_it_is_drawn_with(
    tok: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tok, tmp_path / "a", BestOf(3, temperature=2.0), seed=5)
    monkeypatch.setattr(code_set_writer, "BATCH", 64)
    write(tok, tmp_path / "b", BestOf(3, temperature=2.0), seed=5)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_each_image_may_be_followed_by_its_mirror_image(tok: Tokenizer, tmp_path: Path) -> None:
    write(tok, tmp_path, flip=True)
    both = CodeSet.open(tmp_path)
    images = digits(ITEMS)
    np.testing.assert_array_equal(both.values[0::2], tok.encode(images).numpy())
    np.testing.assert_array_equal(both.values[1::2], tok.encode(images[:, :, ::-1]).numpy())
    assert both.labels[:].tolist() == [label for label in range(ITEMS) for _ in range(2)]
    assert [line.get("flipped", False) for line in both.items()] == [False, True] * ITEMS and both.record["flip"]


def test_a_set_that_is_whole_is_left_as_it_is(tok: Tokenizer, tmp_path: Path) -> None:
    write(tok, tmp_path)
    before = files(tmp_path)
    assert write(tok, tmp_path) == (ITEMS, 0, 0)
    assert files(tmp_path) == before


def interrupt_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode this many batches, and interrupt the next."""
    left = [batches]

    def encode(*arguments: Any, **options: Any) -> Made:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return make_codes(*arguments, **options)

    monkeypatch.setattr(code_set_writer, "make_codes", encode)


@pytest.mark.parametrize("batches", range(4))
def test_what_was_interrupted_is_resumed_and_ends_as_if_it_had_not_been(
    batches: int, tok: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tok, tmp_path / "whole")
    folder = tmp_path / "interrupted"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(batches, patch)
        write(tok, folder)
    assert not FILES & set(files(folder))
    with (folder / "codes.npy.partial").open("ab") as file:  # written, and not noted before the power went
        file.write(b"half a row")
    assert write(tok, folder) == (ITEMS, 0, ITEMS - 2 * batches)
    assert files(folder) == files(tmp_path / "whole")


def test_rows_that_have_gone_since_are_missed(tok: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(2, patch)
        write(tok, tmp_path)
    (tmp_path / "codes.npy.partial").write_bytes(b"short")
    with pytest.raises(CodesFileError, match=r"codes\.npy\.partial: is 5 bytes long, and was \d+"):
        write(tok, tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": 3}'])
def test_a_file_that_is_not_a_record_is_named(content: str, tok: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(CodesFileError, match=r"dataset\.json: .*record of a code set"):
        write(tok, tmp_path)


def test_codes_made_in_another_way_are_kept_until_others_are_whole(
    tok: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tok, tmp_path)
    before = files(tmp_path)
    with pytest.raises(OutputExistsError, match="holds codes that differ in encoding, seed; pass --force"):
        write(tok, tmp_path, Sampled(2), seed=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(1, patch)
        write(tok, tmp_path, Sampled(2), seed=1, replace=True)
    assert {name: data for name, data in files(tmp_path).items() if name in before} == before
    assert write(tok, tmp_path, Sampled(2), seed=1, replace=True) == (ITEMS, 0, ITEMS - 2)
    assert np.load(tmp_path / "codes.npy").shape == (ITEMS, 2, tok.num_tokens) and set(files(tmp_path)) == FILES


def test_searches_that_weigh_log_q_differently_are_other_ways(tok: Tokenizer, tmp_path: Path) -> None:
    write(tok, tmp_path, LocalSearch())
    with pytest.raises(OutputExistsError, match="holds codes that differ in encoding; pass --force"):
        write(tok, tmp_path, LocalSearch(log_q_weight=20.0))


@pytest.mark.parametrize("name", ["thesis.tex", "codes.npy"])
def test_a_folder_that_holds_something_else_is_refused(name: str, tok: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputExistsError, match="is not empty; name a folder that is for the codes alone"):
        write(tok, tmp_path)
    assert files(tmp_path) == {name: b"mine"}


def test_a_folder_that_cannot_be_made_is_named(tok: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DapsError, match=r"file/codes: cannot be written \(Not a directory\)"):
        write(tok, tmp_path / "file" / "codes")


# Lists of items that change


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of four photographs, in the folders of two classes and in none."""
    for number, name in enumerate(["dog/a.png", "cat/b.png", "cat/c.png", "d.png"]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(noise_photo(number)))
    return tmp_path / "photos"


def test_folders_are_classes_and_files_outside_of_them_have_no_label(
    tok: Tokenizer, photos: Path, tmp_path: Path
) -> None:
    write(tok, tmp_path / "codes", data=open_data(photos, tok.config))
    found = CodeSet.open(tmp_path / "codes")
    assert found.classes == ["cat", "dog"] and found.labels[:].tolist() == [0, 0, -1, 1]
    assert [line["item"] for line in found.items()] == [
        f"photos/{name}" for name in ("cat/b.png", "cat/c.png", "d.png", "dog/a.png")
    ]
    assert next(found.items())["bytes"] == (photos / "cat" / "b.png").stat().st_size


def change(photos: Path, kind: str) -> None:
    if kind != "resized":
        (photos / "cat" / "b.png").unlink()
        (photos / "cat" / "bb.png").write_bytes((photos / "d.png").read_bytes())
    else:
        (photos / "cat" / "b.png").write_bytes(encode_image(noise_photo(9, 5, 5)))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("renamed", r": 1 gone \(photos/cat/b\.png\), 1 new \(photos/cat/bb\.png\); pass --force to replace them"),
        ("resized", r": 1 of another size \(photos/cat/b\.png\); pass --force"),
    ],
)
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_list_of_items_that_has_changed_is_refused_and_said(
    kind: str, said: str, is_whole: bool, tok: Tokenizer, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "codes"
    with monkeypatch.context() as patch:
        if not is_whole:
            interrupt_after(1, patch)
            said = said.replace(r", 1 new \(photos/cat/bb\.png\)", "")  # what is new is known of a whole set alone
            with pytest.raises(KeyboardInterrupt):
                write(tok, folder, data=open_data(photos, tok.config))
        else:
            write(tok, folder, data=open_data(photos, tok.config))
    change(photos, kind)
    with pytest.raises(OutputExistsError, match=f"holds codes of a list of items that has changed since{said}"):
        write(tok, folder, data=open_data(photos, tok.config))
    assert write(tok, folder, data=open_data(photos, tok.config), replace=True) == (4, 0, 4)


def test_another_array_of_the_same_name_and_length_is_refused(tok: Tokenizer, tmp_path: Path) -> None:
    write(tok, tmp_path)
    other = ArrayData(labelled().array[::-1], "digits", labels=np.arange(ITEMS))
    with pytest.raises(OutputExistsError, match="list of items that has changed"):
        write(tok, tmp_path, data=other)


def test_other_labels_of_the_same_items_are_refused(tok: Tokenizer, tmp_path: Path) -> None:
    write(tok, tmp_path)
    with pytest.raises(OutputExistsError, match="holds codes that differ in labels"):
        write(tok, tmp_path, data=ArrayData(digits(ITEMS), "digits", labels=np.zeros(ITEMS, np.int64)))


def test_items_that_disappear_while_they_are_encoded_are_not_skipped(
    tok: Tokenizer, photos: Path, tmp_path: Path
) -> None:
    data, away = open_data(photos, tok.config), tmp_path / "away"
    with pytest.raises(InputError, match=r"photos: nothing can be read any more \(.*b\.png: .*; the same command resu"):
        write(tok, tmp_path / "codes", data=data, on_progress=lambda _: photos.rename(away))
    away.rename(photos)
    assert write(tok, tmp_path / "codes", data=data) == (4, 0, 4)


# Items that cannot be read


def test_images_that_cannot_be_read_are_skipped_and_named(tok: Tokenizer, tmp_path: Path) -> None:
    images = {f"{index}.png": encode_image(noise_photo(index)) for index in range(4)}
    write_tar(tmp_path / "a.tar", images | {"1.png": b"no image", "3.png": b""})
    data = open_data(tmp_path / "a.tar", tok.config)
    report = write(tok, tmp_path / "codes", data=data)
    assert report == (2, 2, 4)
    skipped = lines(tmp_path / "codes", "skipped.jsonl")
    assert [line["item"] for line in skipped] == ["a.tar, 1.png", "a.tar, 3.png"] and skipped[0]["bytes"] == 8
    assert "1.png: not an image" in skipped[0]["reason"] and "3.png: " in skipped[1]["reason"]
    assert [line["item"] for line in lines(tmp_path / "codes")] == ["a.tar, 0.png", "a.tar, 2.png"]
    np.testing.assert_array_equal(
        np.load(tmp_path / "codes" / "codes.npy"), tok.encode(data.read(np.array([0, 2]))).numpy()
    )
    assert write(tok, tmp_path / "codes", data=data) == (2, 2, 0)


def test_an_image_that_memory_does_not_hold_is_skipped(
    tok: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ArrayData.read

    def short_of_memory(data: ArrayData, indices: np.ndarray) -> np.ndarray:
        if 3 in indices:
            raise MemoryError
        return read(data, indices)

    monkeypatch.setattr(ArrayData, "read", short_of_memory)
    assert write(tok, tmp_path) == (ITEMS - 1, 1, ITEMS)
    assert [line["reason"] for line in lines(tmp_path, "skipped.jsonl")] == ["item 3: takes more memory than there is"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_large_images_are_encoded_in_less_than_a_gigabyte(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for index, size in enumerate([(11_000, 12_000), (5_000, 6_000), (5_000, 6_000), (5_000, 6_000)]):
        Image.new("RGB", size, (index, 9, 200)).save(tmp_path / "images" / f"{index}.png", compress_level=1)
    arguments = [str(tmp_path / "images"), "-o", str(tmp_path / "codes"), "--model", "daps-mnist"]
    (finished,) = run_together([arguments], [set()])
    assert finished.images == 4 and finished.memory_mb < 1000


def test_a_dataset_of_which_nothing_can_be_read_leaves_no_codes_until_it_can(tok: Tokenizer, tmp_path: Path) -> None:
    photo = encode_image(noise_photo(0))
    write_tar(tmp_path / "a.tar", {"0.png": b"\0" * len(photo)})
    for _ in range(2):
        with pytest.raises(InputError, match=r"a\.tar: none of its 1 items can be read \(.*0\.png: "):
            write(tok, tmp_path / "codes", data=open_data(tmp_path / "a.tar", tok.config))
    assert not FILES & set(files(tmp_path / "codes"))
    write_tar(tmp_path / "a.tar", {"0.png": photo})
    assert write(tok, tmp_path / "codes", data=open_data(tmp_path / "a.tar", tok.config)) == (1, 0, 1)


# Tar files


def tar_of(path: Path, numbers: range, label: bytes | None = b"7") -> Path:
    """A tar file of images as webdataset writes it, each next to its class."""
    members: dict[str, bytes] = {}
    for number in numbers:
        members[f"set/{number:03}.png"] = encode_image(noise_photo(number))
        if label is not None:
            members[f"set/{number:03}.cls"] = label
    return write_tar(path, members)


def test_a_folder_of_tar_files_is_one_dataset_with_the_labels_that_are_in_them(tok: Tokenizer, tmp_path: Path) -> None:
    tars = tmp_path / "tars [1]"  # brackets are no pattern here
    tars.mkdir()
    tar_of(tars / "a.tar", range(2), b"7"), tar_of(tars / "b.tar", range(2, 4), b"10\n")
    tar_of(tars / "c.tar", range(4, 6), label=None)
    write(tok, tmp_path / "codes", data=open_data(tars, tok.config, limit=5))
    found = CodeSet.open(tmp_path / "codes")
    assert found.labels[:].tolist() == [7, 7, 10, 10, -1] and found.classes is None
    names = ["a.tar, set/000.png", "a.tar, set/001.png", "b.tar, set/002.png", "b.tar, set/003.png"]
    assert [line["item"] for line in found.items()] == [f"tars [1]/{name}" for name in (*names, "c.tar, set/004.png")]


def test_a_folder_of_images_and_tar_files_is_refused(tok: Tokenizer, tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", range(1))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "1.png").write_bytes(encode_image(noise_photo(1)))
    with pytest.raises(InputError, match="holds both images and tar files; expected a folder of one of them"):
        open_data(tmp_path, tok.config)


def test_a_label_that_is_not_a_number_is_named(tok: Tokenizer, tmp_path: Path) -> None:
    data = open_data(tar_of(tmp_path / "a.tar", range(1), b"cat"), tok.config)
    with pytest.raises(InputError, match=r"a\.tar, set/000\.cls: is b'cat'; expected a class's number"):
        write(tok, tmp_path / "codes", data=data)


# Shards


@pytest.mark.parametrize("count", [2, 3, ITEMS + 2])
def test_shards_together_are_the_whole_set(count: int, tok: Tokenizer, tmp_path: Path) -> None:
    write(tok, tmp_path / "whole", Sampled(2), flip=True)
    whole, folder = CodeSet.open(tmp_path / "whole"), tmp_path / "shards"
    reports = [write(tok, folder, Sampled(2), flip=True, shard=Shard(index, count)) for index in reversed(range(count))]
    assert sum(report.done_now for report in reports) == ITEMS
    assert f"codes-00001-of-0000{count}.npy" in files(folder) and len(files(folder)) == 1 + 5 * count
    shards = CodeSet.open(folder)
    assert shards.values.shape == whole.values.shape and len(shards) == len(whole)
    np.testing.assert_array_equal(np.asarray(shards.values), whole.values)
    np.testing.assert_array_equal(shards[3:9].numpy(), whole[3:9].numpy())
    order = np.random.default_rng(0).permutation(len(whole))
    np.testing.assert_array_equal(shards.values[order], whole.values[order])
    np.testing.assert_array_equal(shards.values[-1], whole.values[-1])
    assert list(shards.items()) == list(whole.items())
    merge_shards(folder, tmp_path / "merged")
    assert files(tmp_path / "merged") == files(tmp_path / "whole")


def test_a_set_with_shards_missing_names_them(tok: Tokenizer, tmp_path: Path) -> None:
    write(tok, tmp_path, shard=Shard(1, 3))
    with pytest.raises(CodesFileError, match=r"is not complete, 2 of 3 shards are missing: 0/3, 2/3; run the same"):
        CodeSet.open(tmp_path)
    assert write(tok, tmp_path, shard=Shard(1, 3)).done_now == 0


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"shard": Shard(0, 4)}, "in shards; name"),
        ({"shard": Shard(0, 3), "way": Sampled(1)}, "in encoding; name another folder"),
        (
            {"shard": Shard(0, 3), "data": labelled(8)},
            "in items, labels: .*there were 7 and are 8; name another folder",
        ),
        ({"shard": Shard(1, 3), "seed": 1}, "in seed; name another folder"),
    ],
)
def test_a_shard_of_another_run_is_refused(other: dict[str, Any], said: str, tok: Tokenizer, tmp_path: Path) -> None:
    write(tok, tmp_path, shard=Shard(1, 3))
    before = files(tmp_path)
    with pytest.raises(OutputExistsError, match=f"holds shards of another run, which differs {said}"):
        write(tok, tmp_path, **other)
    assert files(tmp_path) == before


def test_a_whole_set_and_shards_do_not_share_a_folder(tok: Tokenizer, tmp_path: Path) -> None:
    write(tok, tmp_path / "shards", shard=Shard(0, 2))
    with pytest.raises(OutputExistsError, match="holds a code set in 2 shards; name another folder"):
        write(tok, tmp_path / "shards", replace=True)
    write(tok, tmp_path / "whole")
    with pytest.raises(OutputExistsError, match="holds a code set that is not in shards; name another folder"):
        write(tok, tmp_path / "whole", shard=Shard(0, 2))


def test_a_shard_copied_from_another_run_is_found(tok: Tokenizer, tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 1)):
        for index in range(2):
            write(tok, tmp_path / folder, Sampled(1), seed=seed, shard=Shard(index, 2))
    name = "dataset-00001-of-00002.json"
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    with pytest.raises(CodesFileError, match="shard 1 is of another run; it differs in seed"):
        CodeSet.open(tmp_path / "a")


@pytest.mark.parametrize(("index", "count"), [(3, 3), (-1, 2), (0, 0)])
def test_a_shard_that_cannot_be_is_refused(index: int, count: int) -> None:
    with pytest.raises(InputError, match="shard"):
        Shard(index, count)


def test_items_are_read_a_second_time_by_no_shard(tok: Tokenizer, photos: Path, tmp_path: Path) -> None:
    data = open_data(photos, tok.config)
    assert isinstance(data, ImageFiles)
    for index in range(2):
        write(tok, tmp_path / "codes", data=data, shard=Shard(index, 2))
    assert [line["item"] for line in CodeSet.open(tmp_path / "codes").items()] == [name for name, _ in data.entries()]
