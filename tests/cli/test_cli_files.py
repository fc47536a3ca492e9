"""daps-tokenize with files: the line it prints, what it writes, and the one line where something is wrong."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daps_tokenizer import Codes, Tokenizer
from daps_tokenizer.errors import CodesError
from tests.cli.helpers import digit, refusal, run, run_well, save_codes

# Encode


def test_encode_writes_codes_beside_the_image_and_says_so(tok: Tokenizer, model: str) -> None:
    result = run_well("encode", "digit.png", "--model", model)
    size = Path("digit.daps").stat().st_size
    surprisal = -tok.log_prob("digit.png", tok.encode("digit.png"))[0] / np.log(2)
    bits = f"64 bits (surprisal {surprisal:.1f} bits)"
    start = f"digit.png -> digit.daps  8 codes of 8 bits, {bits}, 8 bytes of codes (file {size} bytes), random-mnist, "
    assert result.stdout.startswith(start) and result.stdout.endswith(" ms\n") and result.stderr == ""
    assert Codes.load("digit.daps") == tok.encode("digit.png")


def test_encode_writes_where_it_is_told(model: str) -> None:
    run_well("encode", "digit.png", "-o", "elsewhere.daps", "--model", model)
    assert Path("elsewhere.daps").is_file() and not Path("digit.daps").exists()


def test_many_images_are_encoded_each_beside_itself(model: str) -> None:
    Path("folder").mkdir()
    digit(1).save("folder/other.jpg")
    result = run_well("encode", "digit.png", "folder/other.jpg", "--model", model)
    assert len(result.stdout.splitlines()) == 2
    assert Path("digit.daps").is_file() and Path("folder/other.daps").is_file()


def test_a_bad_image_among_others_is_reported_and_the_others_are_encoded(model: str) -> None:
    Path("broken.png").write_bytes(b"no image")
    digit(1).save("last.png")
    result = run("encode", "digit.png", "broken.png", "none.png", "last.png", "--model", model)
    assert result.exit_code == 2
    assert [line.split(" ")[0] for line in result.stdout.splitlines()] == ["digit.png", "last.png"]
    broken, none = result.stderr.splitlines()
    assert broken.startswith("error: broken.png: not an image")
    assert none == "error: none.png: no such file; expected the path of an image"
    assert Path("digit.daps").is_file() and Path("last.daps").is_file() and not Path("broken.daps").exists()


def test_json_is_one_object_a_line_and_nothing_else(model: str) -> None:
    digit(1).save("other.png")
    result = run_well("encode", "digit.png", "other.png", "--json", "--show", "--model", model)
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert first.pop("milliseconds") > 0 and first.pop("surprisal_bits") > 0
    assert first.pop("file_bytes") == Path("digit.daps").stat().st_size
    assert first == {
        "input": "digit.png",
        "output": "digit.daps",
        "model": "random-mnist",
        "shape": [1, 8],
        "vocab_size": 256,
        "bits": 64,
    }
    assert second["output"] == "other.daps"


def test_fit_decides_how_an_image_of_another_size_is_seen(tok: Tokenizer, model: str) -> None:
    digit(size=56).resize((40, 56)).save("tall.png")
    for fit in ("crop", "pad", "stretch", "tile"):
        run_well("encode", "tall.png", "--fit", fit, "--force", "--model", model)
        assert Codes.load("tall.daps") == tok.encode("tall.png", fit=fit)  # type: ignore[arg-type]


def test_tiles_are_counted(model: str) -> None:
    digit(size=56).save("large.png")
    line = run_well("encode", "large.png", "--fit", "tile", "--model", model).stdout
    assert "  4 x 8 codes of 8 bits, 256 bits (surprisal " in line and "), 32 bytes of codes (file " in line


def test_sample_draws_one_sample_by_seed_and_temperature(tok: Tokenizer, model: str) -> None:
    run_well("encode", "digit.png", "--sample", "--temperature", 0.7, "--seed", 3, "--model", model)
    assert Codes.load("digit.daps") == tok.sample("digit.png", temperature=0.7, seed=3)[:, 0]


def test_best_of_explains_the_image_no_worse(tok: Tokenizer, model: str) -> None:
    run_well("encode", "digit.png", "--best-of", 4, "--model", model)
    best, greedy = Codes.load("digit.daps"), tok.encode("digit.png")
    assert tok.likelihood("digit.png", best).log_likelihood[0] >= tok.likelihood("digit.png", greedy).log_likelihood[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sample", "--best-of", "2"], "--sample and --best-of exclude each other"),
        (["--temperature", "1"], "--temperature needs --sample or --best-of"),
        (["--seed", "1"], "--seed needs --sample or --best-of"),
        (["--best-of", "0"], "Invalid value for '--best-of': 0 is not in the range x>=1"),
        (["--sample", "--temperature", "nan"], "temperature must be a finite number of at least 0, not nan"),
        (["--fit", "squeeze"], "Invalid value for '--fit': 'squeeze' is not one of 'crop', 'pad', 'stretch', 'tile'"),
        (["--backend", "jax"], "Invalid value for '--backend': 'jax' is not one of 'auto', 'onnx', 'torch'"),
        (["--device", "tpu"], "backend 'onnx' knows no device 'tpu'; accepted are cpu, cuda"),
        (["--num-threads", "0"], "Invalid value for '--num-threads'"),
        (["-o", "digit.txt"], "-o digit.txt: expected a name that ends with .daps"),
        (["-o", "none/digit.daps"], "none/digit.daps: cannot be written, as there is no folder none"),
        (["--show-png", "none/grid.png"], "make it, or let --show-png none/ make it"),
        (["-o", f"{'x' * 300}.daps"], "x.daps': cannot be written (File name too long)"),
        (["--show-png", f"{'x' * 300}.png"], "x.png': cannot be written (File name too long)"),
        (["--show-png", "-"], "--show-png writes a file"),
        (["--show-png", "grid.jpg"], "--show-png grid.jpg: expected a name that ends with .png"),
        (["--json", "-o", "-"], "--json and the output both go to standard output"),
        (["--wrong"], "No such option '--wrong'"),
    ],
)
def test_impossible_options_are_refused_in_one_line(model: str, options: list[str], message: str) -> None:
    assert message in refusal("encode", "digit.png", *options, "--model", model)
    assert not Path("digit.daps").exists()


def test_a_model_that_is_not_there_is_named() -> None:
    assert refusal("encode", "digit.png", "--model", "nothing").startswith("no model is named 'nothing'")


def test_a_daps_file_is_not_encoded(tok: Tokenizer, model: str) -> None:
    save_codes(tok, "x.daps", 0)
    assert refusal("encode", "x.daps", "--force", "--model", model).startswith("x.daps: is a .daps file already")


# Nothing is overwritten


def test_codes_are_overwritten_only_with_force(model: str) -> None:
    Path("digit.daps").write_bytes(b"precious")
    message = "digit.png: digit.daps already exists; pass --force to overwrite it or name another with -o"
    assert refusal("encode", "digit.png", "--model", model) == message
    assert Path("digit.daps").read_bytes() == b"precious"
    run_well("encode", "digit.png", "--force", "--model", model)
    assert Codes.load("digit.daps").num_tokens == 8


def test_images_are_overwritten_only_with_force(tok: Tokenizer, model: str) -> None:
    save_codes(tok, "digit.daps", 1)
    before = Path("digit.png").read_bytes()
    Path("digit.decoded.png").write_bytes(b"precious")
    assert refusal("decode", "digit.daps", "--model", model).startswith(
        "digit.daps: digit.decoded.png already exists; pass --force"
    )
    Path("digit.reconstruction.png").write_bytes(b"precious")
    assert "pass --force" in refusal("reconstruct", "digit.png", "--model", model)
    Path("grid.png").write_bytes(b"precious")
    assert "pass --force" in refusal("encode", "digit.png", "-o", "y.daps", "--show-png", "grid.png", "--model", model)
    assert Path("digit.png").read_bytes() == before and not Path("y.daps").exists()


def test_two_inputs_never_share_an_output(model: str) -> None:
    digit(1).save("digit.bmp")
    result = run("encode", "digit.png", "digit.bmp", "--force", "--model", model)
    assert result.exit_code == 2 and result.stdout.startswith("digit.png -> digit.daps")
    expected = "error: digit.bmp: would be written to digit.daps, as digit.png is; run it alone with -o\n"
    assert result.stderr == expected


def test_a_broken_image_leaves_its_name_to_another(model: str) -> None:
    Path("digit.png").write_bytes(Path("digit.png").read_bytes()[:100])
    digit(1).save("digit.bmp")
    result = run("encode", "digit.png", "digit.bmp", "--model", model)
    assert result.exit_code == 2 and result.stdout.startswith("digit.bmp -> digit.daps")
    assert result.stderr.startswith("error: digit.png: ") and result.stderr.count("\n") == 1


def test_a_folder_that_may_not_be_entered_is_said_in_one_line(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = os.stat

    def locked(path: Any, *arguments: Any, **options: Any) -> os.stat_result:  # root may enter any folder
        if str(path).startswith("locked") or "/locked/" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *arguments, **options)

    Path("locked").mkdir()
    for name in ("digit.png", "no_suffix"):
        shutil.copy("digit.png", f"locked/{name}")
    monkeypatch.setattr(os, "stat", locked)
    denied = "cannot be written (Permission denied)"
    assert denied in refusal("encode", "digit.png", "-o", "locked/x.daps", "--model", model)
    assert denied in refusal("encode", "digit.png", "--show-png", "locked/x.png", "--model", model)
    assert denied in refusal("locked/digit.png", "--model", model)
    assert refusal("locked/no_suffix", "--model", model).startswith("No such command 'locked/no_suffix'")


# Decode


def test_decode_writes_the_image_beside_the_codes(tok: Tokenizer, model: str) -> None:
    codes = save_codes(tok, "x.daps", 1)
    result = run_well("decode", "x.daps", "--model", model)
    assert result.stdout.startswith("x.daps -> x.decoded.png  28x28 pixels, random-mnist, ")
    np.testing.assert_array_equal(np.asarray(Image.open("x.decoded.png")), tok.decode(codes)[0, ..., 0])


def test_the_model_is_the_built_in_one_that_the_file_names(tok: Tokenizer, built_in: str) -> None:
    save_codes(tok, "x.daps", 1)
    assert built_in in run_well("decode", "x.daps").stdout


def test_a_model_that_is_not_built_in_has_to_be_given(tok: Tokenizer) -> None:
    save_codes(tok, "x.daps", 1)
    message = "x.daps: made by 'random-mnist', which is not built in; pass --model with its ./folder or org/name"
    assert refusal("decode", "x.daps") == message


def test_items_of_one_file_are_numbered(tok: Tokenizer, model: str) -> None:
    codes = save_codes(tok, "x.daps", 1, 2, 3)
    result = run_well("decode", "x.daps", "--json", "--model", model)
    assert json.loads(result.stdout)["outputs"] == ["x.decoded-0.png", "x.decoded-1.png", "x.decoded-2.png"]
    np.testing.assert_array_equal(np.asarray(Image.open("x.decoded-2.png")), tok.decode(codes)[2, ..., 0])
    assert run_well("decode", "x.daps", "-o", "y.png", "--model", model).stdout.startswith(
        "x.daps -> y-0.png ... y-2.png  3 images of 28x28 pixels"
    )


def test_tiled_codes_become_one_image_of_the_original_size(model: str) -> None:
    digit(size=64).resize((64, 40)).save("wide.png")
    run_well("encode", "wide.png", "--fit", "tile", "-o", "x.daps", "--model", model)
    run_well("decode", "x.daps", "--model", model)
    assert Image.open("x.decoded.png").size == (64, 40)


def test_a_bad_file_among_others_is_reported_and_the_others_are_decoded(tok: Tokenizer, model: str) -> None:
    data = save_codes(tok, "good.daps", 1).to_bytes()
    Path("cut.daps").write_bytes(data[:-9])
    Path("changed.daps").write_bytes(data[:-6] + b"!" + data[-5:])
    Path("other.daps").write_bytes(b"PNG")
    result = run("decode", "cut.daps", "changed.daps", "other.daps", "none.daps", "good.daps", "--model", model)
    assert result.exit_code == 2 and Path("good.decoded.png").is_file() and result.stdout.count("\n") == 1
    cut, changed, other, none = result.stderr.splitlines()
    assert cut.startswith("error: cut.daps: cut short")
    assert changed.startswith("error: changed.daps: changed after it was written")
    assert other.startswith("error: other.daps: not a .daps file")
    assert none == "error: 'none.daps': cannot be read (No such file or directory); expected a .daps file"


def test_codes_of_other_weights_are_refused(model: str) -> None:
    Codes(np.zeros((1, 8), int), 256, "random-mnist", "0" * 64).save("x.daps")
    message = refusal("decode", "x.daps", "--model", model)
    assert message.startswith("x.daps: codes were made by random-mnist (weights 000000000000)")
    with pytest.raises(CodesError):
        Tokenizer.from_pretrained(model).decode(Codes.load("x.daps"))


def test_images_are_written_as_images_only(tok: Tokenizer, model: str) -> None:
    save_codes(tok, "x.daps", 1)
    message = refusal("decode", "x.daps", "-o", "x.gif", "--model", model)
    assert message.startswith("-o x.gif: expected a name that ends with .png or .webp")


# Reconstruct


def test_reconstruct_writes_what_is_left_and_how_close_it_is(tok: Tokenizer, model: str) -> None:
    result = run_well("reconstruct", "digit.png", "--json", "--model", model)
    left = np.asarray(Image.open("digit.reconstruction.png"))
    np.testing.assert_array_equal(left, tok.reconstruct("digit.png")[0, ..., 0])
    report = json.loads(result.stdout)
    mse = np.square(np.asarray(digit(), float) - left).mean()
    assert report["psnr"] == pytest.approx(10 * np.log10(255**2 / mse)) and report["bits"] == 64
    line = run_well("reconstruct", "digit.png", "--force", "--model", model).stdout
    expected = f"digit.png -> digit.reconstruction.png  PSNR {report['psnr']:.2f} dB, 64 bits (surprisal "
    assert line.startswith(expected)


@pytest.mark.parametrize(("name", "kind"), [("a.webp", "WEBP"), ("a.JPG", "JPEG"), ("a.png", "PNG")])
def test_the_suffix_says_what_kind_of_image_is_written(model: str, name: str, kind: str) -> None:
    run_well("reconstruct", "digit.png", "-o", name, "--model", model)
    assert Image.open(name).format == kind


def test_compare_puts_what_the_model_sees_beside_what_is_left(tok: Tokenizer, model: str) -> None:
    Image.fromarray((np.asarray(digit()) * 0.8).astype(np.uint8)).save("grey.png")  # a Bernoulli model sees it as white
    run_well("reconstruct", "grey.png", "-o", "both.png", "--compare", "--model", model)
    both = np.asarray(Image.open("both.png"))
    assert both.shape == (28, 28 + 1 + 28) and (both[:, 28] == 255).all()
    np.testing.assert_array_equal(both[:, :28], np.asarray(digit()))
    np.testing.assert_array_equal(both[:, 29:], tok.reconstruct("grey.png")[0, ..., 0])


# Show


def test_show_prints_codes_and_their_surprisal(tok: Tokenizer, model: str) -> None:
    codes = tok.encode("digit.png")
    printed = run_well("encode", "digit.png", "--show", "--model", model).stdout.splitlines()
    bits = -tok.log_prob("digit.png", codes)[0] / np.log(2)
    assert printed[0] == "codes, 0 to 255"
    assert [int(word) for word in printed[1].split()] == codes.numpy()[0].tolist()
    assert printed[2] == f"surprisal -log2 q(code) in bits, total {bits:.1f}, dark 0 to bright 8"
    assert sum(float(word) for word in printed[3].split()) == pytest.approx(bits, abs=0.5)
    assert printed[4].startswith("digit.png -> digit.daps")


def test_show_png_draws_a_cell_for_each_code_and_equal_codes_alike(tok: Tokenizer, model: str) -> None:
    digit(size=56).save("large.png")
    run_well("encode", "large.png", "--fit", "tile", "--show-png", "grid.png", "--model", model)
    codes = Codes.load("large.daps").numpy().reshape(2, 16)  # two tiles a row, each of 8 codes in a row
    cell, margin, caption = 640 // 16, 16, 24
    picture = np.asarray(Image.open("grid.png").convert("RGB"))
    middles = picture[margin + caption + cell // 2 :: cell, margin + cell // 2 :: cell][:2, :16]
    colours = {int(code): tuple(colour) for code, colour in zip(codes.ravel(), middles.reshape(-1, 3), strict=True)}
    assert len(set(colours.values())) == len(colours) == len(set(codes.ravel().tolist()))
    for code, colour in zip(codes.ravel().tolist(), middles.reshape(-1, 3), strict=True):
        assert colours[code] == tuple(colour)
