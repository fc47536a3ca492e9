"""``daps-tokenize dataset``: a folder of images to an array of codes."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daps_tokenizer import LocalSearch, Tokenizer
from daps_tokenizer.cli import dataset as cli_dataset
from daps_tokenizer.data import code_set_writer
from daps_tokenizer.data.code_set_files import WHOLE, writing
from daps_tokenizer.data.code_sets import CodeSet
from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.ways import Made, make_codes
from tests.cli.helpers import digit, refusal, run, run_well
from tests.motion.motions import smooth_motion

COUNT = 5


def codes(folder: str = "codes") -> np.ndarray:
    return np.load(Path(folder) / "codes.npy")


def test_it_says_what_it_made_and_how_fast(model: str, tok: Tokenizer, images: Path) -> None:
    line = run_well("dataset", images, "-o", "codes", "--model", model).stdout
    assert line.startswith(f"{images} -> codes/codes.npy  5 x 8 codes, uint8, random-mnist, ")
    assert line.rstrip().endswith(" images/s")
    np.testing.assert_array_equal(codes(), tok.encode([digit(seed) for seed in range(COUNT)]).numpy())
    again = run_well("dataset", images, "-o", "codes", "--model", model).stdout
    assert again.rstrip().endswith("was complete already")


def test_an_interrupt_says_what_is_kept_and_the_next_run_where_it_resumed(
    model: str, tok: Tokenizer, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_set_writer, "BATCH", 2)
    monkeypatch.setattr(cli_dataset, "SECONDS_BETWEEN_LINES", 0.0)
    made = []

    def interrupted(*arguments: Any, **options: Any) -> Made:
        made.append(make_codes(*arguments, **options))
        if len(made) == 2:
            raise KeyboardInterrupt
        return made[-1]

    arguments = ["dataset", images, "-o", "codes", "--model", model]
    with monkeypatch.context() as patch:
        patch.setattr(code_set_writer, "make_codes", interrupted)
        result = run(*arguments)
    assert result.exit_code == 130 and result.stdout == ""
    progress, last = result.stderr.splitlines()[:2]
    assert re.fullmatch(r"codes: 2 of 5 images, [\d.]+ images/s, \d+ s to go", progress)
    assert last == "interrupted: codes keeps 2 of 5 images; the same command resumes"
    resumed = run_well(*arguments)
    assert resumed.stderr.splitlines()[0] == "note: codes: resumed at image 2 of 5"
    assert len(resumed.stderr.splitlines()) == 3  # and two lines of progress, of 4 and 5 images
    np.testing.assert_array_equal(codes(), tok.encode([digit(seed) for seed in range(COUNT)]).numpy())


def test_progress_is_a_line_every_half_minute_where_no_terminal_is(model: str, images: Path) -> None:
    assert cli_dataset.SECONDS_BETWEEN_LINES == 30
    assert run_well("dataset", images, "-o", "codes", "--model", model).stderr == ""


def test_programs_get_json(model: str, images: Path) -> None:
    record = json.loads(run_well("dataset", images, "-o", "codes", "--model", model, "--json").stdout)
    assert record.pop("seconds") > 0
    assert record == {
        "output": "codes",
        "model": "random-mnist",
        "shape": [COUNT, 8],
        "type": "uint8",
        "skipped": 0,
        "done_now": COUNT,
    }


def test_samples_and_searches(model: str, tok: Tokenizer, images: Path) -> None:
    inputs = [digit(seed) for seed in range(COUNT)]
    run_well("dataset", images, "-o", "a", "--model", model, "--samples", 2, "--temperature", 0.5, "--seed", 3)
    seeds = [3 * 2**64 + number for number in range(COUNT)]
    np.testing.assert_array_equal(codes("a"), tok.sample(inputs, num_samples=2, temperature=0.5, seed=seeds).numpy())
    run_well("dataset", images, "-o", "b", "--model", model, "--search", 1, "--limit", 2)
    np.testing.assert_array_equal(codes("b"), tok.encode(inputs[:2], search=LocalSearch(proposals=1)).numpy())


def test_broken_images_are_named_and_the_others_encoded(model: str, images: Path) -> None:
    for number in range(7):
        (images / f"broken-{number}.png").write_text("no image")
    result = run("dataset", images, "-o", "codes", "--model", model)
    assert result.exit_code == 2 and "5 x 8 codes" in result.stdout and len(codes()) == COUNT
    errors = result.stderr.splitlines()
    assert len(errors) == 6 and all(line.startswith(f"error: {images}/broken-") for line in errors[:5])
    assert errors[5] == "error: 2 more, named in codes/skipped.jsonl"
    assert len(Path("codes/skipped.jsonl").read_text().splitlines()) == 7


def test_other_codes_are_replaced_with_force_alone(model: str, images: Path) -> None:
    run_well("dataset", images, "-o", "codes", "--model", model)
    said = refusal("dataset", images, "-o", "codes", "--model", model, "--limit", 1)
    assert said == (
        "codes: holds codes of a list of items that has changed since: 4 gone (images/1.png, images/2.png, "
        "images/3.png, ...), there were 5 and are 1; pass --force to replace them, or name another folder"
    )
    run_well("dataset", images, "-o", "codes", "--model", model, "--limit", 1, "--force")
    assert len(codes()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "2", "--search", "1"], "--samples and --search exclude each other"),
        (["--shard", "0/2", "--force"], "--force does not replace shards; name a new folder with -o"),
        (["--shard", "0/2", "--merge"], "--merge and --shard exclude each other"),
        (["--shard", "2/2"], "Invalid value for '--shard': there is no shard 2 of 2; they are numbered from 0"),
        (["--shard", "two"], "Invalid value for '--shard': 'two' is not I/N, such as 0/64"),
        (["--seed", "1"], "--temperature and --seed need --samples; without it nothing is random"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], message: str, model: str, images: Path
) -> None:
    assert refusal("dataset", images, "-o", "codes", "--model", model, *options).startswith(message)


def test_clips_become_windows_in_a_row_with_their_kind_as_label(random_motion_folder: Path, workplace: Path) -> None:
    (workplace / "clips").mkdir()
    for name, frames in (("walk1_a", 70), ("run2", 40), ("walk2", 31)):
        Clip(smooth_motion(frames)).save(workplace / "clips" / f"{name}.csv")
    (workplace / "clips" / "broken.csv").write_text("no numbers")
    poses = np.concatenate([smooth_motion(32), np.full((9, 26), np.nan)])
    np.savez(workplace / "clips" / "many.npz", data=poses, split_points=[0, 32, 41], names=["jump1", "none"], fps=30)
    result = run("dataset", "clips", "-o", "codes", "--model", random_motion_folder)
    assert result.exit_code == 2 and "4 x 64 codes" in result.stdout
    first, second = result.stderr.splitlines()
    assert first.startswith("error: clips/broken.csv: ") and second.startswith("error: clips/many.npz: none: row 1")
    found = CodeSet.open("codes")
    assert [line["item"] for line in found.items()] == [
        "clips/many.npz, jump1, frames 0 to 31",
        "clips/run2.csv, frames 0 to 31",
        "clips/walk1_a.csv, frames 0 to 31",
        "clips/walk1_a.csv, frames 32 to 63",
    ]
    assert found.classes == ["jump", "run", "walk"] and found.labels[:].tolist() == [0, 1, 2, 2]
    tok = Tokenizer.from_pretrained(random_motion_folder)
    whole = tok.encode(workplace / "clips" / "walk1_a.csv").numpy()
    np.testing.assert_array_equal(found.values[2:], whole[0, :2])


def test_labels_of_a_file_and_files_that_are_ignored(model: str, images: Path) -> None:
    (images / "notes.txt").write_text("mine")
    Path("labels.csv").write_text("item,label\nimages/1.png,seven\n3.png,one\n")
    result = run_well("dataset", images, "-o", "codes", "--model", model, "--labels", "labels.csv")
    assert result.stderr == f"note: {images}: files without the suffix of an image are ignored: 1\n"
    found = CodeSet.open("codes")
    assert found.classes == ["one", "seven"] and found.labels[:].tolist() == [-1, 1, -1, 0, -1]
    assert "of 2 classes" in run_well("info", "codes").stdout


def test_shards_are_described_decoded_and_merged(model: str, tok: Tokenizer, images: Path) -> None:
    options = ["-o", "shards", "--model", model, "--flip"]
    line = run_well("dataset", images, *options, "--shard", "1/2").stdout
    assert line.startswith(f"{images} -> shards/codes-00001-of-00002.npy  6 x 8 codes, uint8, random-mnist, ")
    assert json.loads(run_well("info", "shards", "--json").stdout)["state"] == "1 of 2 shards are complete"
    said = refusal("dataset", "shards", "--merge", "-o", "codes")
    assert said.startswith(
        "shards: is not complete, 1 of 2 shards are missing: 0/2; run the same `daps-tokenize dataset`"
    )
    run_well("dataset", images, *options, "--shard", "0/2")
    described = json.loads(run_well("info", "shards", "--json").stdout)
    assert described["state"] == "complete, in 2 shards" and described["shape"] == [2 * COUNT, 8]
    record = json.loads(run_well("decode", "shards", "--rows", "4:6", "--json", "--model", model).stdout)
    assert record["outputs"] == ["shards.decoded-4.png", "shards.decoded-5.png"]
    merged = run_well("dataset", "shards", "--merge", "-o", "codes").stdout
    assert merged == "shards -> codes/codes.npy  10 x 8 codes, uint8, random-mnist, merged\n"
    run_well("dataset", images, "-o", "whole", "--model", model, "--flip")
    for name in ("codes.npy", "labels.npy", "items.jsonl", "skipped.jsonl", "dataset.json"):
        assert Path("codes", name).read_bytes() == Path("whole", name).read_bytes()


def test_a_folder_in_which_another_process_writes_is_refused(model: str, images: Path) -> None:
    with writing(Path("codes"), WHOLE):
        said = refusal("dataset", images, "-o", "codes", "--model", model)
    assert said == f"codes: process {os.getpid()} writes here; wait until it ends, or name another folder"
