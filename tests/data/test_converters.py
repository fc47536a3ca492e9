"""Codes in other formats, each read with the loader it is for, or as that loader's documentation lays it out."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daps_tokenizer import Codes, CodesError, DapsError, InputError, OutputExistsError
from daps_tokenizer.data import converters
from daps_tokenizer.data.converters import Format, Rows, convert, rows_of_files

VOCAB, TOKENS, CLASSES = 300, 4, ["cat", "dog", "horse"]
LABELS = np.array([2, 0, -1, 1, 0], np.int64)
ABOUT = {"model": "daps-mnist", "weights_sha256": "0" * 64, "vocab_size": VOCAB, "token_grid": [2, 2]}


def some_rows(*, samples: int | None = None, labels: np.ndarray | None = LABELS, classes: Any = CLASSES) -> Rows:
    """Five rows of four codes out of 300, or of several samples of four codes."""
    shape = (5, TOKENS) if samples is None else (5, samples, TOKENS)
    values = np.random.default_rng(0).integers(0, VOCAB, shape).astype(np.uint16)
    return Rows(values, labels, classes, lambda: [f"images/{row}.png" for row in range(5)], ABOUT)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converters, "_CHUNK_BYTES", 2 * TOKENS * 2)  # two rows at a time


@pytest.mark.parametrize(("samples", "files"), [(None, None), (None, 2), (3, 2)])
def test_hugging_face_datasets_reads_parquet(samples: int | None, files: int | None, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")
    rows = some_rows(samples=samples)
    convert(rows, "parquet", tmp_path / "codes", files=files)
    assert len(list((tmp_path / "codes" / "data").iterdir())) == (files or 1)
    read = datasets.load_dataset(str(tmp_path / "codes"), split="train", cache_dir=str(tmp_path / "cache"))
    assert read.features["label"].names == CLASSES
    assert read["item"][:] == list(rows.names()) and read["label"][:] == LABELS.tolist()
    np.testing.assert_array_equal(read.with_format("numpy")[:]["codes"], rows.values)
    assert "uint16" in str(read.data.schema.field("codes").type)  # on the disk


def test_the_dataset_card_says_what_the_codes_are(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the datasets library is not installed")
    convert(some_rows(), "parquet", tmp_path / "horses")
    card = (tmp_path / "horses" / "README.md").read_text()
    assert "# horses" in card and "5 rows of 4 codes from 0 to 299; ids from 300 on are free" in card
    assert 'Tokenizer.from_pretrained("daps-mnist")' in card


@pytest.mark.parametrize("samples", [None, 3])
def test_webdataset_reads_tars(samples: int | None, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    rows = some_rows(samples=samples)
    convert(rows, "webdataset", tmp_path / "codes", files=2)
    tars = sorted(map(str, (tmp_path / "codes").glob("train-*.tar")))
    assert [Path(tar).name for tar in tars] == ["train-000000.tar", "train-000001.tar"]
    read = list(webdataset.WebDataset(tars, shardshuffle=False).decode().to_tuple("__key__", "token.npy", "cls"))
    assert [key for key, _, _ in read] == [f"{row:09}" for row in range(5)]
    np.testing.assert_array_equal([codes for _, codes, _ in read], rows.values)
    assert [label for _, _, label in read] == LABELS.tolist()


def test_a_memmap_as_nanogpt_opens_it_has_a_start_token_and_the_codes_of_each_row(tmp_path: Path) -> None:
    rows = some_rows()
    meta = convert(rows, "bin", tmp_path / "codes")
    stream = np.memmap(tmp_path / "codes" / "train.bin", dtype=np.uint16, mode="r").reshape(5, 1 + TOKENS)
    np.testing.assert_array_equal(stream[:, 1:], rows.values)
    assert stream[:, 0].tolist() == [302, 300, 303, 301, 300]  # V + label, and V + 3 where there is none
    assert meta == json.loads((tmp_path / "codes" / "meta.json").read_text())
    assert meta["num_ids"] == 304 > stream.max() and meta["start_of_class_0"] == 300 and meta["start_of_unknown"] == 303


def test_samples_of_an_item_follow_one_another_in_a_bin(tmp_path: Path) -> None:
    rows = some_rows(samples=3, labels=None, classes=None)
    assert convert(rows, "bin", tmp_path / "codes")["num_ids"] == VOCAB + 1
    stream = np.fromfile(tmp_path / "codes" / "train.bin", np.uint16).reshape(5, 3, 1 + TOKENS)
    np.testing.assert_array_equal(stream[..., 1:], rows.values)
    assert (stream[..., 0] == VOCAB).all()


def test_codes_that_do_not_fit_a_bin_are_refused(tmp_path: Path) -> None:
    rows = Rows(np.zeros((5, TOKENS), np.uint16), None, None, lambda: "abcde", ABOUT | {"vocab_size": 1 << 16})
    with pytest.raises(CodesError, match="65537 codes and start tokens do not fit into the uint16 of bin"):
        convert(rows, "bin", tmp_path / "codes")
    assert list(tmp_path.iterdir()) == []


def test_a_set_without_rows_is_refused(tmp_path: Path) -> None:
    rows = Rows(np.zeros((0, TOKENS), np.uint8), None, None, lambda: [], ABOUT)
    with pytest.raises(CodesError, match="there are no rows to convert"):
        convert(rows, "bin", tmp_path / "codes")


@pytest.mark.parametrize("samples", [None, 3])
def test_jsonl_is_as_rar_reads_it(samples: int | None, tmp_path: Path) -> None:
    rows = some_rows(samples=samples)
    convert(rows, "jsonl", tmp_path / "codes", split="val")
    lines = [json.loads(line) for line in (tmp_path / "codes" / "val.jsonl").read_text().splitlines()]
    np.testing.assert_array_equal([line["tokens"] for line in lines], rows.values.reshape(-1, TOKENS))
    assert [line["class_id"] for line in lines] == np.repeat(LABELS, samples or 1).tolist()


@pytest.mark.parametrize(("samples", "shape"), [(None, (1, TOKENS)), (3, (1, 3, TOKENS))])
def test_twin_folders_are_as_llamagen_reads_them(samples: int | None, shape: tuple[int, ...], tmp_path: Path) -> None:
    rows = some_rows(samples=samples)
    convert(rows, "npy-folder", tmp_path / "imagenet256")
    for row in range(5):
        codes, label = (
            np.load(tmp_path / "imagenet256" / f"imagenet256_{what}" / f"{row}.npy") for what in ("codes", "labels")
        )
        assert codes.shape == shape and codes.dtype == label.dtype == np.int64  # torch's embedding takes no uint16
        np.testing.assert_array_equal(codes[0], rows.values[row])
        assert label.tolist() == [LABELS[row]]


def test_items_of_daps_files_are_rows_and_must_be_of_one_model() -> None:
    def codes(*shape: int, sha: str = "a") -> Codes:
        return Codes(np.arange(np.prod(shape)).reshape(shape), 16, "some-model", sha * 64)

    rows = rows_of_files([("a.daps", codes(1, 4)), ("b.daps", codes(3, 4))])
    assert rows.values.dtype == np.uint8 and rows.values.shape == (4, 4) and rows.num_classes == 0
    assert list(rows.names()) == ["a.daps", "b.daps, row 0", "b.daps, row 1", "b.daps, row 2"]
    with pytest.raises(CodesError, match=r"c\.daps: holds codes of 'some-model' with weights bbbbbbbb"):
        rows_of_files([("a.daps", codes(1, 4)), ("c.daps", codes(1, 4, sha="b"))])


@pytest.mark.parametrize("to", ["bin", "jsonl", "npy-folder"])
def test_formats_of_one_file_take_no_number_of_files(to: Format, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--files is for parquet and webdataset"):
        convert(some_rows(), to, tmp_path / "codes", files=2)


def test_there_are_at_most_as_many_files_as_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--files 6 is more than the 5 rows"):
        convert(some_rows(), "webdataset", tmp_path / "codes", files=6)
    assert list(tmp_path.iterdir()) == []


def test_only_an_earlier_conversion_makes_way(tmp_path: Path) -> None:
    folder = tmp_path / "codes"
    convert(some_rows(), "jsonl", folder)
    with pytest.raises(OutputExistsError, match="codes: already exists; pass --force to replace it"):
        convert(some_rows(), "bin", folder)
    convert(some_rows(), "bin", folder, replace=True)
    assert {path.name for path in folder.iterdir()} == {"train.bin", "meta.json"}
    (folder / "meta.json").unlink()
    with pytest.raises(OutputExistsError, match="codes: was not written by `daps-tokenize convert`"):
        convert(some_rows(), "bin", folder, replace=True)
    assert (folder / "train.bin").exists()


def test_what_fails_or_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(some_rows(), "jsonl", tmp_path / "codes", on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(DapsError, match=r"file/codes: cannot be written \(Not a directory\)"):
        convert(some_rows(), "jsonl", tmp_path / "file" / "codes")


def test_parquet_without_its_library_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"parquet needs the datasets library.*pip install .*\[datasets\]"):
        convert(some_rows(), "parquet", tmp_path / "codes")
