"""A dataset as codes: what a call leaves unfinished another resumes, and nothing has its name before it is whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daps_tokenizer import Codes, Tokenizer
from daps_tokenizer.data import code_sets
from daps_tokenizer.data.code_sets import CodeSetReport, Encode, write_code_set
from daps_tokenizer.data.datasets import ArrayData, open_data
from daps_tokenizer.errors import CodesFileError, DapsError, InputError, OutputExistsError
from tests.photographs import encode_image, noise_photo, write_tar
from tests.test_tokenizer import digits

ITEMS = 7


@pytest.fixture(scope="module")
def tok(random_mnist_folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(random_mnist_folder)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_sets, "BATCH", 2)


def labelled(count: int = ITEMS) -> ArrayData:
    return ArrayData(digits(count), "digits", labels=np.arange(count))


def write(tok: Tokenizer, folder: Path, encode: Encode | None = None, **changes: Any) -> CodeSetReport:
    arguments: dict[str, Any] = {"data": labelled(), "encoding": {"codes": "greedy"}} | changes
    data = arguments.pop("data")
    return write_code_set(tok, data, folder, encode or (lambda items, _: tok.encode(items)), **arguments)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


def test_every_item_is_a_row_of_the_smallest_type_with_its_name_and_label(tok: Tokenizer, tmp_path: Path) -> None:
    folder, done = tmp_path / "new" / "codes", list[int]()
    assert write(tok, folder, on_progress=done.append) == (ITEMS, {}, ITEMS)
    codes = np.load(folder / "codes.npy")
    assert codes.dtype == (np.uint8 if tok.vocab_size <= 256 else np.uint16)
    np.testing.assert_array_equal(codes, tok.encode(digits(ITEMS)).numpy())
    assert lines(folder) == [{"item": str(index), "label": index} for index in range(ITEMS)]
    record = json.loads((folder / "dataset.json").read_text())
    assert record["model"] == tok.config.name and record["vocab_size"] == tok.vocab_size
    assert record["encoding"] == {"codes": "greedy"} and record["rows"] == ITEMS
    assert done == [0, 2, 4, 6, 7] and set(files(folder)) == {"codes.npy", "items.jsonl", "dataset.json"}


def test_samples_have_an_axis_of_their_own_and_batches_seeds(tok: Tokenizer, tmp_path: Path) -> None:
    write(tok, tmp_path, lambda items, seed: tok.sample(items, num_samples=3, seed=seed), seed=5)
    codes = np.load(tmp_path / "codes.npy")
    assert codes.shape == (ITEMS, 3, tok.num_tokens)
    np.testing.assert_array_equal(codes[2:4], tok.sample(digits(ITEMS)[2:4], num_samples=3, seed=6).numpy())


def test_a_set_that_is_whole_is_left_as_it_is(tok: Tokenizer, tmp_path: Path) -> None:
    write(tok, tmp_path)
    before = files(tmp_path)
    assert write(tok, tmp_path, failing_after(tok, 0)) == (ITEMS, {}, 0)
    assert files(tmp_path) == before


def failing_after(tok: Tokenizer, batches: int) -> Encode:
    """Encodes this many batches, and is interrupted in the next."""
    left = [batches]

    def encode(items: np.ndarray, _: int) -> Codes:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return tok.encode(items)

    return encode


@pytest.mark.parametrize("batches", range(4))
def test_what_was_interrupted_goes_on_and_ends_as_if_it_had_not_been(
    batches: int, tok: Tokenizer, tmp_path: Path
) -> None:
    write(tok, tmp_path / "whole")
    folder = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        write(tok, folder, failing_after(tok, batches))
    assert not (folder / "codes.npy").exists() and not (folder / "dataset.json").exists()
    with (folder / "codes.npy.partial").open("ab") as file:  # written, and not noted before the power went
        file.write(b"half a row")
    assert write(tok, folder) == (ITEMS, {}, ITEMS - 2 * batches)
    assert files(folder) == files(tmp_path / "whole")


def test_rows_that_have_gone_since_are_missed(tok: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tok, tmp_path, failing_after(tok, 2))
    (tmp_path / "codes.npy.partial").write_bytes(b"short")
    with pytest.raises(CodesFileError, match=r"codes\.npy\.partial: is 5 bytes long, and was \d+"):
        write(tok, tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": 3}'])
def test_a_record_that_is_none_is_named(content: str, tok: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(CodesFileError, match=r"dataset\.json: .*record of a code set"):
        write(tok, tmp_path)


def test_codes_made_in_another_way_are_kept_until_others_are_whole(tok: Tokenizer, tmp_path: Path) -> None:
    write(tok, tmp_path)
    before = files(tmp_path)
    others = {"data": labelled(4), "encoding": {"codes": "searched"}}
    with pytest.raises(OutputExistsError, match="holds codes that differ in items, encoding; pass --force"):
        write(tok, tmp_path, **others)
    with pytest.raises(KeyboardInterrupt):
        write(tok, tmp_path, failing_after(tok, 1), replace=True, **others)
    assert {name: data for name, data in files(tmp_path).items() if name in before} == before
    assert write(tok, tmp_path, replace=True, **others) == (4, {}, 2)
    assert len(np.load(tmp_path / "codes.npy")) == 4 and set(files(tmp_path)) == set(before)


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


def test_images_that_cannot_be_read_are_left_out_and_reported(tok: Tokenizer, tmp_path: Path) -> None:
    images = {f"{index}.png": encode_image(noise_photo(index)) for index in range(4)}
    write_tar(tmp_path / "a.tar", images | {"1.png": b"no image", "3.png": b""})
    data = open_data(tmp_path / "a.tar", tok.config)
    report = write(tok, tmp_path / "codes", data=data)
    assert report.rows == 2 and [name.split(", ")[1] for name in report.broken] == ["1.png", "3.png"]
    assert all("1.png: " in reason or "3.png: " in reason for reason in report.broken.values())
    assert [line["item"] for line in lines(tmp_path / "codes")] == [f"{tmp_path / 'a.tar'}, {n}.png" for n in (0, 2)]
    np.testing.assert_array_equal(
        np.load(tmp_path / "codes" / "codes.npy"), tok.encode(data.read(np.array([0, 2]))).numpy()
    )
    assert write(tok, tmp_path / "codes", data=data) == (2, report.broken, 0)


def shard(path: Path, numbers: range, label: bytes | None = b"7") -> Path:
    """A tar file of images as webdataset writes it, each next to its class."""
    members: dict[str, bytes] = {}
    for number in numbers:
        members[f"set/{number:03}.png"] = encode_image(noise_photo(number))
        if label is not None:
            members[f"set/{number:03}.cls"] = label
    return write_tar(path, members)


def test_a_folder_of_tar_files_is_one_dataset_with_the_labels_that_are_in_them(tok: Tokenizer, tmp_path: Path) -> None:
    shards = tmp_path / "shards [1]"  # brackets are no pattern here
    shards.mkdir()
    first, second = shard(shards / "a.tar", range(2), b"7"), shard(shards / "b.tar", range(2, 5), b"10\n")
    write(tok, tmp_path / "codes", data=open_data(shards, tok.config, limit=4))
    assert lines(tmp_path / "codes") == [
        {"item": f"{first}, set/000.png", "label": 7},
        {"item": f"{first}, set/001.png", "label": 7},
        {"item": f"{second}, set/002.png", "label": 10},
        {"item": f"{second}, set/003.png", "label": 10},
    ]


def test_a_folder_of_images_and_tar_files_is_refused(tok: Tokenizer, tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", range(1))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "1.png").write_bytes(encode_image(noise_photo(1)))
    with pytest.raises(InputError, match="holds both images and tar files; expected a folder of one of them"):
        open_data(tmp_path, tok.config)


def test_without_a_label_for_every_image_there_are_none(tok: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    shard(tmp_path / "shards" / "a.tar", range(1)), shard(tmp_path / "shards" / "b.tar", range(1, 2), label=None)
    assert open_data(tmp_path / "shards", tok.config).labels is None


def test_a_label_that_is_no_number_is_named(tok: Tokenizer, tmp_path: Path) -> None:
    data = open_data(shard(tmp_path / "a.tar", range(1), b"cat"), tok.config)
    with pytest.raises(InputError, match=r"a\.tar, set/000\.cls: is b'cat'; expected a class's number"):
        write(tok, tmp_path / "codes", data=data)


def test_a_dataset_of_which_nothing_can_be_read_leaves_no_codes(tok: Tokenizer, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"0.png": b"no image"})
    with pytest.raises(InputError, match=r"a\.tar: none of its 1 items can be read \(.*0\.png: "):
        write(tok, tmp_path / "codes", data=open_data(tmp_path / "a.tar", tok.config))
    assert not (tmp_path / "codes" / "codes.npy").exists()
