"""Where daps-tokenize writes: next to its inputs, into a folder, and never over an input."""

from pathlib import Path

import pytest
from PIL import Image

from daps_tokenizer import Codes, Tokenizer
from tests.cli.helpers import digit, refusal, run, run_well, save_codes


def test_a_picture_and_its_codes_and_back_loses_nothing(model: str) -> None:
    before = Path("digit.png").read_bytes()
    for _ in range(2):
        run_well("digit.png", "--model", model, "--force")
        run_well("digit.daps", "--model", model, "--force")
    assert Path("digit.png").read_bytes() == before and Path("digit.decoded.png").is_file()


@pytest.mark.parametrize("output", ["digit.png", "./digit.png", "link.png"])
def test_an_input_is_not_overwritten_with_force_neither(model: str, output: str) -> None:
    Path("link.png").symlink_to("digit.png")
    before = Path("digit.png").read_bytes()
    said = refusal("reconstruct", "digit.png", "-o", output, "--force", "--model", model)
    assert said.endswith(
        f"{Path(output)} is an input of this command, which is never overwritten; name another with -o"
    )
    assert Path("digit.png").read_bytes() == before


def test_an_input_among_others_is_not_overwritten_neither(model: str) -> None:
    digit(1).save("digit.reconstruction.png")
    result = run("reconstruct", "digit.png", "digit.reconstruction.png", "--force", "--model", model)
    assert result.exit_code == 2 and "digit.reconstruction.png is an input of this command" in result.stderr
    assert Path("digit.reconstruction.reconstruction.png").is_file()


def test_a_name_that_ends_with_a_slash_is_a_folder(tok: Tokenizer, model: str) -> None:
    Path("deep").mkdir()
    digit(1).save("deep/other.png")
    line = run_well("encode", "digit.png", "deep/other.png", "-o", "new/codes/", "--model", model).stdout
    assert line.startswith("digit.png -> new/codes/digit.daps")
    assert Codes.load("new/codes/other.daps") == tok.encode("deep/other.png")
    run_well("reconstruct", "digit.png", "-o", "new/", "--model", model)
    assert Path("new/digit.reconstruction.png").is_file()


def test_an_existing_folder_needs_no_slash(model: str) -> None:
    Path("codes").mkdir()
    run_well("encode", "digit.png", "-o", "codes", "--model", model)
    assert Path("codes/digit.daps").is_file()
    stdin = Path("digit.png").read_bytes()
    assert run_well("encode", "-", "-o", "codes/", "--model", model, stdin=stdin).stdout.startswith(
        "standard input -> codes/stdin.daps"
    )


def test_a_folder_that_cannot_be_made_is_named(model: str) -> None:
    said = refusal("encode", "digit.png", "-o", "digit.png/codes/", "--model", model)
    assert said == "digit.png: 'digit.png/codes': cannot be made (Not a directory); name another folder"


def test_several_inputs_need_a_folder(model: str) -> None:
    digit(1).save("other.png")
    said = refusal("encode", "digit.png", "other.png", "-o", "all.daps", "--model", model)
    assert said.startswith("-o all.daps names one file for 2 inputs; -o all/ names a folder")


@pytest.mark.parametrize("command", [[], ["encode"], ["reconstruct"]])
def test_a_folder_as_an_input_names_what_takes_folders(model: str, images: Path, command: list[str]) -> None:
    said = refusal(*command, "images", "--model", model)
    assert said == (
        "images: is a folder; `daps-tokenize dataset images -o codes` encodes all of its images as one array, "
        "or pass images/*.png to name each file"
    )


def test_codes_of_several_items_are_numbered_in_a_folder(tok: Tokenizer, model: str) -> None:
    save_codes(tok, "x.daps", 1, 2)
    run_well("decode", "x.daps", "-o", "pictures/", "--model", model)
    assert sorted(path.name for path in Path("pictures").iterdir()) == ["x.decoded-0.png", "x.decoded-1.png"]


def test_an_image_larger_than_its_format_can_be_is_refused(model: str) -> None:
    Image.new("L", (17_000, 20)).save("wide.png")
    run_well("encode", "wide.png", "--fit", "tile", "--model", model)
    said = refusal("decode", "wide.daps", "-o", "wide.webp", "--model", model)
    assert "an image of 17,000×20 pixels, and a .webp file has at most 16,383 a side; write a .png" in said
    assert not Path("wide.webp").exists()
