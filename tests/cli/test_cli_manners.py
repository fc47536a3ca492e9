"""daps-tokenize as a neighbour of other programs: what it knows, pipes, terminals, interrupts."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from daps_tokenizer import ClipLayout, Codes, Tokenizer, __version__
from daps_tokenizer.cli.common import print_table
from daps_tokenizer.cli.main import COMMANDS
from daps_tokenizer.cli.sources import DEFAULT_MODEL
from daps_tokenizer.hub import built_in_models
from tests.cli.helpers import ENVIRONMENT, PYTHON_M, digit, on_terminal, refusal, run_well, save_codes

# What there is


def test_info_alone_describes_the_installation(built_in: str) -> None:
    printed = run_well("info").stdout
    assert __version__ in printed and DEFAULT_MODEL in printed and built_in in printed and "onnxruntime" in printed
    assert json.loads(run_well("info", "--json").stdout)["default_model"] == "daps-photo-256"


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


def test_info_counts_the_anchors_of_a_long_clip() -> None:
    layout = ClipLayout(96, 3, 0, 30.0, ((0.0, 1.0, 0.5),), (((1, 2, 3), (4, 5, 6), (7, 8, 9)),))
    Codes(np.zeros((1, 3, 8), int), 16, "walker", "", layout).save("walk.daps")
    printed = run_well("info", "walk.daps").stdout
    assert "starts: ((0.0, 1.0, 0.5),)\n" in printed and "anchors: 9 numbers\n" in printed


def test_info_refuses_what_is_neither() -> None:
    assert refusal("info", "none.daps").startswith("'none.daps': cannot be read")
    assert refusal("info", "./none").startswith("none is not a folder")
    assert refusal("info", "x" * 300).startswith("no model is named 'xxx")


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


def test_models_on_a_narrow_terminal_keeps_names_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    print_table(["model", "input", "log p, nats"], [["daps-photo-256", "image 256x256x3", "1234567890"]])
    printed = capsys.readouterr().out
    assert "daps-photo-256" in printed and "…" not in printed


def test_bench_times_encode_and_decode(model: str) -> None:
    rows = run_well("bench", model, "--batch", 1, "--batch", 3, "--seconds", 0, "--num-threads", 1, "--json").stdout
    measured = [json.loads(row) for row in rows.splitlines()]
    found = [(row["action"], row["batch"]) for row in measured]
    assert found == [("encode", 1), ("decode", 1), ("encode", 3), ("decode", 3)]
    for row in measured:
        assert row["calls"] >= 5 and 0 < row["median_ms"] <= row["p95_ms"]
        assert row["items_per_second"] == pytest.approx(row["batch"] / row["median_ms"] * 1e3)
        assert row["backend"] == "onnx" and row["num_threads"] == 1 and row["processor"] and row["onnxruntime"]


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
    assert run_well("x.daps", "--model", model).stdout.startswith("x.daps -> x.decoded.png")
    shutil.copy("digit.png", "no_suffix")
    assert run_well("no_suffix", "--model", model).stdout.startswith("no_suffix -> no_suffix.daps")


def test_an_image_without_a_command_that_is_missing_is_named(model: str) -> None:
    assert refusal("none.png", "--model", model) == "none.png: no such file; expected the path of an image"


def test_after_two_dashes_a_file_may_begin_with_one(model: str) -> None:
    digit().save("-dash.png")
    run_well("encode", "--model", model, "--", "-dash.png")
    assert refusal("--", "-dash.png") == (  # without a command, by the default model's name
        "-dash.png: -dash.daps already exists; pass --force to overwrite it or name another with -o"
    )


def test_a_command_that_is_not_known_is_refused() -> None:
    assert refusal("encdoe").startswith("No such command 'encdoe'")


@pytest.mark.parametrize("command", ["encode", "decode", "reconstruct"])
def test_a_command_without_a_file_says_where_help_is(command: str) -> None:
    assert refusal(command).startswith("Missing argument") and f"{command} --help" in refusal(command)


def test_a_command_is_what_the_list_says(model: str) -> None:
    listed = run_well("--help").stdout
    for name, line in COMMANDS.items():
        command = import_module(f"daps_tokenizer.cli.{name}").command
        assert command.name == name and f"{name:13}{line}" in listed
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help and re.match(r"[A-Z].*[.:;].*|[A-Z].*\.$", parameter.help), parameter.name


def test_the_shell_completes_commands_and_options() -> None:
    for words, completed in (
        ("daps-tokenize en", "plain,encode"),
        ("daps-tokenize encode --num", "plain,--num-threads"),
    ):
        environment = ENVIRONMENT | {
            "_DAPS_TOKENIZE_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        run = [sys.executable, "-c", "from daps_tokenizer.cli.main import main; main(prog_name='daps-tokenize')"]
        finished = subprocess.run(run, env=environment, capture_output=True, text=True)
        assert finished.stdout.strip() == completed, finished.stderr


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
    message = "x.daps: holds 2 items, and standard output takes one; use -o NAME"
    assert refusal("decode", "x.daps", "-o", "-", "--model", model) == message


@pytest.mark.skipif(DEFAULT_MODEL not in built_in_models(), reason=f"{DEFAULT_MODEL} is not trained yet")
def test_with_no_option_the_default_model_encodes_and_decodes() -> None:
    assert f", {DEFAULT_MODEL}, " in run_well("digit.png").stdout
    assert run_well("decode", "digit.daps", "-o", "x.png").stdout.startswith("digit.daps -> x.png  256x256 pixels")


# Real processes


def test_python_m_runs_it_and_says_its_version() -> None:
    finished = subprocess.run([*PYTHON_M, "--version"], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert finished.stdout == f"daps-tokenize, version {__version__}\n" and finished.stderr == ""


def test_help_imports_no_runtime() -> None:
    code = "import sys; from daps_tokenizer.cli.main import main; main(['encode', '--help'], standalone_mode=False)"
    command = [sys.executable, "-X", "importtime", "-c", code]
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in finished.stderr.splitlines()}
    assert "daps_tokenizer.cli.main" in imported and "Usage: " in finished.stdout
    assert not imported & {"onnxruntime", "torch", "onnx", "rich", "huggingface_hub"}


def test_a_pipe_of_two_processes_reconstructs(tok: Tokenizer, model: str) -> None:
    encode, decode = ([*PYTHON_M, action, "-", "--model", model] for action in ("encode", "decode"))
    with subprocess.Popen(encode, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin and first.stdout
        first.stdin.write(Path("digit.png").read_bytes())
        first.stdin.close()
        Path("x.png").write_bytes(subprocess.run(decode, env=ENVIRONMENT, stdin=first.stdout, stdout=-1).stdout)
    np.testing.assert_array_equal(np.asarray(Image.open("x.png")), tok.reconstruct("digit.png")[0, ..., 0])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_standard_output_is_said_in_one_line(model: str) -> None:
    buffered = ENVIRONMENT | {"PYTHONUNBUFFERED": ""}
    for arguments, start in (
        (["info"], "error: standard output: "),
        (["encode", "digit.png", "-o", "-", "--model", model], "error: digit.png: standard output: "),
    ):
        with Path("/dev/full").open("wb") as full:
            finished = subprocess.run([*PYTHON_M, *arguments], env=buffered, stdout=full, stderr=-1, text=True)
        assert finished.stderr == f"{start}cannot be written (No space left on device)\n"
        assert finished.returncode == 2


def test_a_reader_that_leaves_early_is_no_reason_for_a_traceback(model: str) -> None:
    for arguments in (["info", model], ["encode", "digit.png", "-o", "-", "--model", model]):
        read_end, write_end = os.pipe()
        os.close(read_end)
        with os.fdopen(write_end, "wb") as nobody_reads:
            finished = subprocess.run([*PYTHON_M, *arguments], env=ENVIRONMENT, stdout=nobody_reads, stderr=-1)
        assert finished.stderr == b"" and finished.returncode in (0, 1)


def test_an_interrupt_is_quiet_and_keeps_what_is_done(tok: Tokenizer, model: str) -> None:
    save_codes(tok, "done.daps", 1)
    tok.codes(np.zeros((200_000, 8), int)).save("takes_minutes.daps")
    command = [*PYTHON_M, "decode", "done.daps", "takes_minutes.daps", "--model", model]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout and process.stderr
        try:
            assert process.stdout.readline().startswith("done.daps -> done.decoded.png")
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130
        finally:
            process.kill()
        assert process.stderr.read().strip() == ""
    assert Path("done.decoded.png").is_file()


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
