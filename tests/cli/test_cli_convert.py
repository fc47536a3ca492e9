"""``daps-tokenize convert``: a code set or ``.daps`` files in the formats of other loaders."""

import json
from pathlib import Path

import numpy as np
import pytest

from daps_tokenizer import Tokenizer
from tests.cli.helpers import digit, refusal, run_well, save_codes


@pytest.fixture
def images(workplace: Path) -> Path:
    """A folder of three digits in each of two folders, which are classes."""
    for seed in range(6):
        folder = workplace / "images" / ("even", "odd")[seed % 2]
        folder.mkdir(parents=True, exist_ok=True)
        digit(seed).save(folder / f"{seed}.png")
    return workplace / "images"


def test_a_code_set_becomes_a_file_of_start_tokens_and_codes(model: str, tok: Tokenizer, images: Path) -> None:
    run_well("dataset", images, "-o", "codes", "--model", model)
    line = run_well("convert", "codes", "--to", "bin").stdout
    assert line.startswith("codes -> codes-bin  6 x 8 codes as bin, random-mnist, ")
    stream = np.memmap("codes-bin/train.bin", dtype=np.uint16, mode="r").reshape(6, 9)
    assert stream[:, 0].tolist() == [256, 256, 256, 257, 257, 257]
    expected = tok.encode([digit(seed) for seed in (0, 2, 4, 1, 3, 5)])
    np.testing.assert_array_equal(stream[:, 1:], expected.numpy())


def test_shards_become_the_same_files_as_a_whole_set(model: str, images: Path) -> None:
    run_well("dataset", images, "-o", "whole", "--model", model, "--flip")
    for index in range(3):
        run_well("dataset", images, "-o", "shards", "--model", model, "--flip", "--shard", f"{index}/3")
    for source in ("whole", "shards"):
        run_well("convert", source, "--to", "jsonl", "-o", f"{source}-out", "--split", "val")
        run_well("convert", source, "--to", "webdataset", "-o", f"{source}-tars", "--files", 2)
    names = ("val.jsonl", "meta.json")
    assert all((Path("whole-out") / name).read_bytes() == (Path("shards-out") / name).read_bytes() for name in names)
    tars = sorted(path.name for path in Path("whole-tars").glob("*.tar"))
    assert len(tars) == 2
    assert all((Path("whole-tars") / tar).read_bytes() == (Path("shards-tars") / tar).read_bytes() for tar in tars)


def test_parquet_says_what_each_row_was_made_of(model: str, images: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the datasets library is not installed")
    run_well("dataset", images, "-o", "codes", "--model", model, "--flip")
    record = json.loads(run_well("convert", "codes", "--to", "parquet", "--json").stdout)
    assert record["output"] == "codes-parquet" and record["rows"] == 12 and record["classes"] == ["even", "odd"]
    table = parquet.read_table("codes-parquet/data/train-00000-of-00001.parquet")
    assert table["item"].to_pylist()[:2] == ["images/even/0.png", "images/even/0.png, mirrored"]
    assert table["label"].to_pylist() == [0] * 6 + [1] * 6


def test_daps_files_are_rows(tok: Tokenizer) -> None:
    codes = [save_codes(tok, name, *seeds) for name, seeds in (("a.daps", (1, 2)), ("b.daps", (3,)))]
    run_well("convert", "a.daps", "b.daps", "--to", "jsonl", "-o", "out")
    lines = [json.loads(line) for line in Path("out/train.jsonl").read_text().splitlines()]
    np.testing.assert_array_equal([line["tokens"] for line in lines], np.concatenate([c.numpy() for c in codes]))
    assert {line["class_id"] for line in lines} == {-1}


def test_an_output_is_replaced_with_force_alone(tok: Tokenizer) -> None:
    save_codes(tok, "a.daps", 1)
    run_well("convert", "a.daps", "--to", "jsonl")
    said = refusal("convert", "a.daps", "--to", "jsonl")
    assert said == "a-jsonl: already exists; pass --force to replace it, or name another with -o"
    run_well("convert", "a.daps", "--to", "jsonl", "--force")


def test_what_cannot_be_converted_is_refused(tok: Tokenizer, model: str, images: Path) -> None:
    save_codes(tok, "a.daps", 1)
    run_well("dataset", images, "-o", "codes", "--model", model)
    assert refusal("convert", "a.daps", "a.daps", "--to", "bin").startswith("Name the folder to write with -o")
    assert refusal("convert", "a.daps", "codes", "--to", "bin", "-o", "x") == (
        "codes: is a folder of codes among other inputs; convert each folder alone"
    )
    assert "images: holds no codes" in refusal("convert", images, "--to", "bin")
    assert "digit.png: not a .daps file" in refusal("convert", "digit.png", "--to", "bin")
    said = refusal("convert", "a.daps", "--to", "bin", "--split", "a/b")
    assert said.startswith("--split 'a/b' becomes part of file names; use letters, digits, - and _")
