"""Folders that ``daps-tokenize dataset`` wrote, as inputs of ``info`` and ``decode``."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daps_tokenizer import Tokenizer
from daps_tokenizer.data import code_set_writer
from daps_tokenizer.data.code_set_writer import write_code_set
from daps_tokenizer.data.datasets import open_data
from tests.cli.helpers import digit, refusal, run_well, save_codes


@pytest.fixture
def code_set(tok: Tokenizer, images: Path) -> str:
    """Greedy codes of five digits."""
    data = open_data(images, tok.config)
    write_code_set(tok, data, Path("codes"))
    return "codes"


@pytest.fixture
def interrupted(tok: Tokenizer, images: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A set of which two batches of two are done."""
    monkeypatch.setattr(code_set_writer, "BATCH", 2)

    def stop(done: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_code_set(tok, open_data(images, tok.config), Path("codes"), on_progress=stop)
    return "codes"


def test_rows_are_decoded_each_to_a_file_with_its_number(tok: Tokenizer, model: str, code_set: str) -> None:
    line = run_well("decode", code_set, "--rows", "1:3", "--model", model).stdout
    assert line.startswith(
        "codes -> codes.decoded-1.png ... codes.decoded-2.png  2 images of 28x28 pixels, random-mnist"
    )
    expected = tok.reconstruct(digit(2))[0, ..., 0]
    np.testing.assert_array_equal(np.asarray(Image.open("codes.decoded-2.png")), expected)
    assert not Path("codes.decoded-3.png").exists()


@pytest.mark.parametrize(("rows", "numbers"), [("4", [4]), (":2", [0, 1]), ("-2:", [3, 4]), ("3:99", [3, 4])])
def test_rows_are_chosen_as_in_python(model: str, code_set: str, rows: str, numbers: list[int]) -> None:
    record = json.loads(run_well("decode", code_set, "--rows", rows, "-o", "p/", "--json", "--model", model).stdout)
    assert record["outputs"] == [f"p/codes.decoded-{number}.png" for number in numbers]


def test_rows_of_samples_are_numbered_by_row_and_sample(tok: Tokenizer, model: str, images: Path) -> None:
    run_well("dataset", images, "-o", "codes", "--samples", 2, "--model", model)
    record = json.loads(run_well("decode", "codes", "--rows", "1", "--json", "--model", model).stdout)
    assert record["outputs"] == ["codes.decoded-1-0.png", "codes.decoded-1-1.png"]


def test_rows_of_a_daps_file_are_its_items(tok: Tokenizer, model: str) -> None:
    codes = save_codes(tok, "x.daps", 1, 2, 3)
    run_well("decode", "x.daps", "--rows", "1:2", "--model", model)
    np.testing.assert_array_equal(np.asarray(Image.open("x.decoded-1.png")), tok.decode(codes)[1, ..., 0])


def test_a_set_needs_rows_that_it_has(model: str, code_set: str) -> None:
    assert refusal("decode", code_set, "--model", model) == (
        "codes: holds 5 rows; choose some of them, as with --rows 0:16"
    )
    assert refusal("decode", code_set, "--rows", "5:9", "--model", model) == (
        "codes: holds 5 rows, numbered from 0; --rows selects none of them"
    )
    assert "'two' is not START:STOP, such as 0:16" in refusal("decode", code_set, "--rows", "two", "--model", model)


def test_a_folder_without_codes_is_not_decoded(model: str, images: Path) -> None:
    said = refusal("decode", images, "--rows", "0:1", "--model", model)
    assert said.endswith("images: holds no codes; expected a folder that `daps-tokenize dataset` wrote")


def test_a_set_that_is_not_complete_is_described_but_not_decoded(model: str, interrupted: str) -> None:
    assert json.loads(run_well("info", interrupted, "--json").stdout)["state"] == "interrupted at 4 of 5 items"
    assert refusal("decode", interrupted, "--rows", "0:1", "--model", model).startswith(
        "codes: is not complete, 4 of 5 items are encoded; run the same `daps-tokenize dataset` command again"
    )


def test_codes_that_are_not_what_the_record_says_are_refused(model: str, code_set: str) -> None:
    np.save("codes/codes.npy", np.zeros((5, 9), np.uint8))
    said = refusal("decode", code_set, "--rows", "0:1", "--model", model)
    assert said == "codes/codes.npy: is uint8 of shape (5, 9), which dataset.json does not say"
    Path("codes/codes.npy").write_bytes(b"no array")
    assert "codes/codes.npy: cannot be read" in refusal("decode", code_set, "--rows", "0:1", "--model", model)


def test_info_describes_a_set(tok: Tokenizer, code_set: str, images: Path) -> None:
    described = json.loads(run_well("info", code_set, "--json").stdout)
    assert described == {
        "folder": "codes",
        "state": "complete",
        "model": "random-mnist",
        "built_in": False,
        "weights_sha256": tok.config.files["model.safetensors"],
        "shape": [5, 8],
        "vocab_size": 256,
        "bits_per_row": 64,
        "encoding": {"codes": "greedy"},
        "seed": 0,
        "data": "images",
        "fit": "crop",
        "flip": False,
        "items": 5,
        "skipped": 0,
        "labels": "none",
    }
    assert json.loads(run_well("info", "codes/codes.npy", "--json").stdout) == described
    assert "state           complete" in run_well("info", code_set).stdout


def test_a_set_in_place_of_an_image_names_what_takes_it(model: str, code_set: str) -> None:
    said = refusal("encode", code_set, "--model", model)
    assert said == (
        "codes: is a folder of codes; `daps-tokenize info codes` describes it, and "
        "`daps-tokenize decode codes --rows 0:16` decodes some of its rows"
    )
