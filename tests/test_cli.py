"""daps-tokenize: the line it prints, the files it writes, and the one line it says when something is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from daps_tokenizer import Codes, Tokenizer, __version__
from daps_tokenizer import hub as hub_module
from daps_tokenizer.cli import main
from daps_tokenizer.cli_common import DEFAULT_MODEL
from daps_tokenizer.errors import CodesError
from daps_tokenizer.hub import built_in_models

ROOT = Path(__file__).resolve().parents[1]
PYTHON_M = [sys.executable, "-m", "daps_tokenizer"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def digit(seed: int = 0, size: int = 28) -> Image.Image:
    """Something with strokes, (size, size) black and white."""
    strokes = np.random.default_rng(seed).normal(size=(7, 7)) > 0.3
    return Image.fromarray(np.where(strokes, 255, 0).astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def run_well(*arguments: object, stdin: bytes | None = None) -> Result:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result


def refusal(*arguments: object, stdin: bytes | None = None) -> str:
    """The one line on standard error, of a run that exits with 2 and prints nothing else."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: it has a digit.png."""
    monkeypatch.chdir(tmp_path)
    digit().save("digit.png")
    return tmp_path


@pytest.fixture
def model(random_mnist_folder: Path) -> str:
    return str(random_mnist_folder)


@pytest.fixture
def built_in(
    random_mnist_folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The name of the only built-in model."""
    folder = tmp_path_factory.mktemp("pretrained")
    shutil.copytree(random_mnist_folder, folder / "random-mnist")
    monkeypatch.setattr(hub_module, "_BUILT_IN_FOLDER", folder)
    return "random-mnist"


@pytest.fixture
def tok(model: str) -> Tokenizer:
    return Tokenizer.from_pretrained(model)


def save_codes(tok: Tokenizer, name: str, *seeds: int) -> Codes:
    codes = tok.encode([digit(seed) for seed in seeds])
    codes.save(name)
    return codes


# Encode


def test_encode_writes_codes_beside_the_image_and_says_so(tok: Tokenizer, model: str) -> None:
    result = run_well("encode", "digit.png", "--model", model)
    size = Path("digit.daps").stat().st_size
    start = f"digit.png -> digit.daps  8 codes of 8 bits, 8 bytes of codes (file {size} bytes), random-mnist, "
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
    assert first.pop("milliseconds") > 0 and first.pop("file_bytes") == Path("digit.daps").stat().st_size
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
    assert (
        "  4 x 8 codes of 8 bits, 32 bytes of codes"
        in run_well("encode", "large.png", "--fit", "tile", "--model", model).stdout
    )


def test_sample_draws_one_sample_by_seed_and_temperature(tok: Tokenizer, model: str) -> None:
    run_well("encode", "digit.png", "--sample", "--temperature", 0.7, "--seed", 3, "--model", model)
    assert Codes.load("digit.daps") == tok.sample("digit.png", temperature=0.7, seed=3)[:, 0]


def test_best_of_explains_the_image_no_worse(tok: Tokenizer, model: str) -> None:
    run_well("encode", "digit.png", "--best-of", 4, "--model", model)
    best, greedy = Codes.load("digit.daps"), tok.encode("digit.png")
    assert tok.log_likelihood("digit.png", best)[0] >= tok.log_likelihood("digit.png", greedy)[0]


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
        (["--threads", "0"], "Invalid value for '--threads'"),
        (["-o", "digit.txt"], "-o digit.txt: expected a name that ends with .daps"),
        (["-o", "none/digit.daps"], "'none/digit.daps': cannot be written (No such file or directory)"),
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
    assert refusal("decode", "digit.daps", "--model", model).startswith(
        "digit.daps: digit.png already exists; pass --force"
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
    expected = "error: digit.bmp: would be written to digit.daps, as digit.png is; do it alone, with -o\n"
    assert result.stderr == expected


# Decode


def test_decode_writes_the_image_beside_the_codes(tok: Tokenizer, model: str) -> None:
    codes = save_codes(tok, "x.daps", 1)
    result = run_well("decode", "x.daps", "--model", model)
    assert result.stdout.startswith("x.daps -> x.png  28x28 pixels, random-mnist, ")
    np.testing.assert_array_equal(np.asarray(Image.open("x.png")), tok.decode(codes)[0, ..., 0])


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
    assert json.loads(result.stdout)["outputs"] == ["x-0.png", "x-1.png", "x-2.png"]
    np.testing.assert_array_equal(np.asarray(Image.open("x-2.png")), tok.decode(codes)[2, ..., 0])
    assert run_well("decode", "x.daps", "-o", "y.png", "--model", model).stdout.startswith(
        "x.daps -> y-0.png ... y-2.png  3 images of 28x28 pixels"
    )


def test_tiled_codes_become_one_image_of_the_original_size(model: str) -> None:
    digit(size=64).resize((64, 40)).save("wide.png")
    run_well("encode", "wide.png", "--fit", "tile", "-o", "x.daps", "--model", model)
    run_well("decode", "x.daps", "--model", model)
    assert Image.open("x.png").size == (64, 40)


def test_a_bad_file_among_others_is_reported_and_the_others_are_decoded(tok: Tokenizer, model: str) -> None:
    data = save_codes(tok, "good.daps", 1).to_bytes()
    Path("cut.daps").write_bytes(data[:-9])
    Path("changed.daps").write_bytes(data[:-6] + b"!" + data[-5:])
    Path("other.daps").write_bytes(b"PNG")
    result = run("decode", "cut.daps", "changed.daps", "other.daps", "none.daps", "good.daps", "--model", model)
    assert result.exit_code == 2 and Path("good.png").is_file() and result.stdout.count("\n") == 1
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


def test_images_are_written_as_png_only(tok: Tokenizer, model: str) -> None:
    save_codes(tok, "x.daps", 1)
    message = refusal("decode", "x.daps", "-o", "x.jpg", "--model", model)
    assert message.startswith("-o x.jpg: expected a name that ends with .png")


def test_one_name_does_for_one_input(tok: Tokenizer, model: str) -> None:
    for name in ("x.daps", "y.daps"):
        save_codes(tok, name, 1)
    assert refusal("decode", "x.daps", "y.daps", "-o", "z.png", "--model", model).startswith(
        "-o takes one input, not 2"
    )


# Reconstruct


def test_reconstruct_writes_what_is_left_and_how_close_it_is(tok: Tokenizer, model: str) -> None:
    result = run_well("reconstruct", "digit.png", "--json", "--model", model)
    left = np.asarray(Image.open("digit.reconstruction.png"))
    np.testing.assert_array_equal(left, tok.reconstruct("digit.png")[0, ..., 0])
    report = json.loads(result.stdout)
    mse = np.square(np.asarray(digit(), float) - left).mean()
    assert report["psnr"] == pytest.approx(10 * np.log10(255**2 / mse)) and report["bits"] == 64
    line = run_well("reconstruct", "digit.png", "--force", "--model", model).stdout
    expected = f"digit.png -> digit.reconstruction.png  PSNR {report['psnr']:.2f} dB, 64 bits, random-mnist, "
    assert line.startswith(expected)


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


# What there is


def test_info_alone_describes_the_installation(built_in: str) -> None:
    printed = run_well("info").stdout
    assert __version__ in printed and DEFAULT_MODEL in printed and built_in in printed and "onnxruntime" in printed
    assert json.loads(run_well("info", "--json").stdout)["default_model"] == "daps-cifar10"


def test_info_describes_a_model(model: str) -> None:
    described = json.loads(run_well("info", model, "--json").stdout)
    assert (described["model"], described["modality"], described["input_shape"]) == (
        "random-mnist",
        "image",
        [28, 28, 1],
    )
    assert (described["num_tokens"], described["vocab_size"], described["bits_per_item"]) == (8, 256, 64.0)
    assert described["parameters"] == {"recognition": 156_480, "generative": 267_344}  # as in the paper's code
    assert described["likelihood"] == {"kind": "bernoulli"} and described["training"] == {"steps": 0}
    size = (Path(model) / "onnx/encoder.onnx").stat().st_size
    assert described["files_in_bytes"]["onnx/encoder.onnx"] == size
    printed = run_well("info", model).stdout
    assert "156,480" in printed and f"onnx/encoder.onnx: {size:,}" in printed and "28x28x1" in printed


def test_info_finds_damaged_files(model: str) -> None:
    shutil.copytree(model, "copy")
    Path("copy/onnx/decoder.onnx").write_bytes(b"damaged")
    assert "copy/onnx/decoder.onnx is damaged" in refusal("info", "./copy")


def test_info_describes_a_daps_file(tok: Tokenizer) -> None:
    codes = save_codes(tok, "x.daps", 1, 2)
    described = json.loads(run_well("info", "x.daps", "--json").stdout)
    assert described == {
        "file": "x.daps",
        "model": "random-mnist",
        "built_in": False,
        "weights_sha256": codes.weights_sha256,
        "shape": [2, 8],
        "vocab_size": 256,
        "bits": 128,
        "layout": None,
    }
    assert "2x8" in run_well("info", "-", stdin=codes.to_bytes()).stdout


def test_info_refuses_what_is_neither() -> None:
    assert refusal("info", "none.daps").startswith("'none.daps': cannot be read")
    assert refusal("info", "./none").startswith("none is not a folder")


def test_models_lists_the_built_in_models(built_in: str) -> None:
    header, row, _ = run_well("models").stdout.splitlines()
    assert header.split() == ["model", "input", "codes", "bits", "size", "log", "p,", "nats", "PSNR,", "dB"]
    assert row.split()[:7] == [built_in, "image", "28x28x1", "8", "of", "256", "64"] and row.split()[-2:] == ["-", "-"]


def test_models_shows_measured_quality(built_in: str) -> None:
    config_file = built_in_models()[built_in] / "config.json"
    config = json.loads(config_file.read_text())
    config["training"]["evaluation"] = {"sampled_log_p": -57.123, "sampled_psnr": 17.456, "dataset": "mnist"}
    config_file.write_text(json.dumps(config))
    assert run_well("models").stdout.splitlines()[1].split()[-2:] == ["-57.12", "17.46"]
    assert json.loads(run_well("models", "--json").stdout)["evaluation"]["sampled_log_p"] == -57.123


def test_bench_times_encode_and_decode(model: str) -> None:
    rows = run_well("bench", model, "--batch", 1, "--batch", 3, "--seconds", 0, "--threads", 1, "--json").stdout
    measured = [json.loads(row) for row in rows.splitlines()]
    found = [(row["action"], row["batch"]) for row in measured]
    assert found == [("encode", 1), ("decode", 1), ("encode", 3), ("decode", 3)]
    for row in measured:
        assert row["calls"] >= 5 and 0 < row["median_ms"] <= row["p95_ms"]
        assert row["items_per_second"] == pytest.approx(row["batch"] / row["median_ms"] * 1e3)
        assert row["backend"] == "onnx" and row["threads"] == 1 and row["processor"] and row["onnxruntime"]


def test_bench_runs_on_torch_too(model: str) -> None:
    pytest.importorskip("torch")
    printed = run_well("bench", model, "--batch", 1, "--seconds", 0, "--backend", "torch").stdout.splitlines()
    assert printed[0] == "random-mnist on torch, cpu, default threads"
    assert printed[1].split() == ["action", "batch", "calls", "median,", "ms", "p95,", "ms", "items/s"]
    assert [line.split()[0] for line in printed[2:4]] == ["encode", "decode"]
    assert f"daps-tokenizer {__version__}" in printed[4] and "cores" in printed[4]


# Manners


def test_without_a_command_an_image_is_encoded_and_a_daps_file_decoded(model: str) -> None:
    assert run_well("digit.png", "-o", "x.daps", "--model", model).stdout.startswith("digit.png -> x.daps")
    assert run_well("x.daps", "--model", model).stdout.startswith("x.daps -> x.png")
    shutil.copy("digit.png", "no_suffix")
    assert run_well("no_suffix", "--model", model).stdout.startswith("no_suffix -> no_suffix.daps")


def test_an_image_without_a_command_that_is_missing_is_named(model: str) -> None:
    assert refusal("none.png", "--model", model) == "none.png: no such file; expected the path of an image"


def test_a_command_that_is_not_known_is_refused() -> None:
    assert refusal("encdoe").startswith("No such command 'encdoe'")


@pytest.mark.parametrize("command", ["encode", "decode", "reconstruct"])
def test_a_command_without_a_file_says_where_help_is(command: str) -> None:
    assert refusal(command).startswith("Missing argument") and f"{command} --help" in refusal(command)


def test_help_is_printed_where_nothing_is_asked() -> None:
    assert run_well().stdout == run_well("--help").stdout
    for command in ("encode", "decode", "reconstruct", "info", "models", "bench"):
        assert command in run_well().stdout and "--json" in run_well(command, "--help").stdout


def test_standard_input_and_output_are_dashes(tok: Tokenizer, model: str) -> None:
    image = Path("digit.png").read_bytes()
    encoded = run_well("encode", "-", "--model", model, stdin=image)
    assert Codes.from_bytes(encoded.stdout_bytes) == tok.encode("digit.png")
    assert encoded.stderr.startswith("standard input -> standard output  8 codes of 8 bits")
    assert run_well("encode", "digit.png", "-o", "-", "--model", model).stdout_bytes == encoded.stdout_bytes
    decoded = run_well("decode", "-", "--model", model, stdin=encoded.stdout_bytes)
    reconstructed = run_well("reconstruct", "-", "--model", model, stdin=image)
    assert decoded.stdout_bytes == reconstructed.stdout_bytes and decoded.stdout_bytes.startswith(b"\x89PNG")
    run_well("encode", "-", "-o", "named.daps", "--model", model, stdin=image)
    assert Path("named.daps").read_bytes() == encoded.stdout_bytes


def test_show_leaves_standard_output_to_the_codes(tok: Tokenizer, model: str) -> None:
    result = run_well("encode", "digit.png", "-o", "-", "--show", "--model", model)
    assert Codes.from_bytes(result.stdout_bytes) == tok.encode("digit.png") and "surprisal" in result.stderr


def test_bad_standard_input_is_called_so(model: str) -> None:
    assert refusal("encode", "-", "--model", model, stdin=b"no image").startswith("standard input: not an image")
    assert refusal("decode", "-", "--model", model, stdin=b"").startswith("standard input: cut short")


def test_standard_input_is_the_only_input_and_standard_output_takes_one_item(tok: Tokenizer, model: str) -> None:
    save_codes(tok, "x.daps", 1, 2)
    assert refusal("encode", "-", "digit.png", "--model", model).startswith(
        "'-' (standard input) must be the only input"
    )
    message = "x.daps: holds 2 items, standard output takes one; use -o NAME"
    assert refusal("decode", "x.daps", "-o", "-", "--model", model) == message


@pytest.mark.skipif(DEFAULT_MODEL not in built_in_models(), reason=f"{DEFAULT_MODEL} is not trained yet")
def test_with_no_option_the_default_model_encodes_and_decodes() -> None:
    assert f", {DEFAULT_MODEL}, " in run_well("digit.png").stdout
    assert run_well("decode", "digit.daps", "-o", "x.png").stdout.startswith("digit.daps -> x.png  32x32 pixels")


# Real processes


def test_python_m_runs_it_and_says_its_version() -> None:
    finished = subprocess.run([*PYTHON_M, "--version"], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert finished.stdout == f"daps-tokenize, version {__version__}\n" and finished.stderr == ""


def test_help_imports_no_runtime() -> None:
    code = "import sys; from daps_tokenizer.cli import main; main(['encode', '--help'], standalone_mode=False)"
    command = [sys.executable, "-X", "importtime", "-c", code]
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in finished.stderr.splitlines()}
    assert "daps_tokenizer.cli" in imported and "Usage: " in finished.stdout
    assert not imported & {"onnxruntime", "torch", "onnx", "rich", "huggingface_hub"}


def test_a_pipe_of_two_processes_reconstructs(tok: Tokenizer, model: str) -> None:
    encode, decode = ([*PYTHON_M, action, "-", "--model", model] for action in ("encode", "decode"))
    with subprocess.Popen(encode, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin and first.stdout
        first.stdin.write(Path("digit.png").read_bytes())
        first.stdin.close()
        Path("x.png").write_bytes(subprocess.run(decode, env=ENVIRONMENT, stdin=first.stdout, stdout=-1).stdout)
    np.testing.assert_array_equal(np.asarray(Image.open("x.png")), tok.reconstruct("digit.png")[0, ..., 0])


def test_a_reader_that_leaves_early_is_no_reason_for_a_traceback(model: str) -> None:
    for arguments in (["info", model], ["encode", "digit.png", "-o", "-", "--model", model]):
        read_end, write_end = os.pipe()
        os.close(read_end)
        with os.fdopen(write_end, "wb") as nobody_reads:
            finished = subprocess.run([*PYTHON_M, *arguments], env=ENVIRONMENT, stdout=nobody_reads, stderr=-1)
        assert finished.stderr == b"" and finished.returncode in (0, 1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes to know when it waits")
def test_an_interrupt_is_quiet_and_keeps_what_is_done(tok: Tokenizer, model: str) -> None:
    save_codes(tok, "done.daps", 1)
    os.mkfifo("waits_for_ever.daps")
    command = [*PYTHON_M, "decode", "done.daps", "waits_for_ever.daps", "--model", model]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline().startswith("done.daps -> done.png")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read().strip() == ""
    assert Path("done.png").is_file()


def on_terminal(arguments: list[str], *, stream: str) -> tuple[int, str, bytes]:
    """Run with one stream on a terminal: exit code, what the terminal got, and what the other stream got."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in ("COLORTERM", "NO_COLOR")}
    streams: dict[str, int] = {stream: theirs, other: subprocess.PIPE}
    with subprocess.Popen([*PYTHON_M, *arguments], env=environment | {"TERM": "xterm-256color"}, **streams) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux's way to say that the program has closed its end
            while chunk := os.read(ours, 4096):
                shown += chunk
        pipe = process.stdout or process.stderr
        assert pipe
        piped = pipe.read()
    os.close(ours)
    return process.returncode, shown.decode(), piped


def test_progress_is_shown_on_a_terminal_and_kept_out_of_pipes(model: str) -> None:
    digit(1).save("other.png")
    code, shown, piped = on_terminal(["encode", "digit.png", "other.png", "--json", "--model", model], stream="stderr")
    assert code == 0 and "2/2" in shown
    assert [json.loads(line)["output"] for line in piped.splitlines()] == ["digit.daps", "other.daps"]


def test_codes_are_drawn_in_colour_on_a_terminal(model: str) -> None:
    code, shown, piped = on_terminal(["encode", "digit.png", "--show", "--model", model], stream="stdout")
    assert code == 0 and "\x1b[30;48;5;" in shown and piped == b""  # black on one of 256 colours


def test_data_is_not_written_to_a_terminal(model: str) -> None:
    code, shown, piped = on_terminal(["encode", "digit.png", "-o", "-", "--model", model], stream="stdout")
    assert code == 2 and shown == "" and piped.startswith(b"error: standard output is a terminal; redirect it")
