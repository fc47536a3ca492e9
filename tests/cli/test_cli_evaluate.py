"""``daps-tokenize evaluate``: tables for people, JSON and a record per item for programs."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from daps_tokenizer import Tokenizer
from daps_tokenizer.cli import evaluate as cli_evaluate
from daps_tokenizer.errors import DapsError
from daps_tokenizer.evaluation.metrics import psnr
from daps_tokenizer.install import install_command
from tests.cli.helpers import refusal, run, run_well

COUNT = 5


def test_it_prints_a_table_and_the_protocol(model: str, images: Path) -> None:
    lines = run_well("evaluate", model, images, "--best-of", 2, "--search", 1).stdout.splitlines()
    assert lines[0].split()[:6] == ["codes", "log_p", "l2", "log_q", "psnr", "ssim"]
    assert [line.split("  ")[0].strip() for line in lines[1:5]] == [
        "greedy",
        "sampled",
        "best of 2",
        "local search, 1 proposals",
    ]
    assert lines[5].startswith("5 items of images, fit crop, seed 0, random-mnist (weights ")
    assert "processor" in lines[6]


def test_result_and_records_are_files_and_agree(model: str, tok: Tokenizer, images: Path) -> None:
    stdout = run_well(
        "evaluate", model, images, "--codes", "greedy", "--json", "-o", "r.json", "--records", "r.jsonl"
    ).stdout
    content = json.loads(Path("r.json").read_text())
    assert json.loads(stdout) == content and list(content["results"]) == ["greedy"]
    records = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [record["item"] for record in records] == [f"images/{seed}.png" for seed in range(COUNT)]
    originals = [str(images / f"{seed}.png") for seed in range(COUNT)]
    expected = psnr(tok.targets(originals), tok.reconstruct(originals))
    np.testing.assert_allclose([record["psnr"] for record in records], expected, rtol=1e-6)
    assert content["results"]["greedy"]["psnr"]["mean"] == pytest.approx(expected.mean())
    assert content["protocol"]["weights_sha256"] == tok.config.weights_sha256


def test_nothing_is_overwritten_without_force(model: str, images: Path) -> None:
    Path("r.json").write_text("mine")
    assert "r.json already exists; pass --force" in refusal("evaluate", model, images, "-o", "r.json")
    assert Path("r.json").read_text() == "mine"
    run_well("evaluate", model, images, "--limit", 1, "-o", "r.json", "--force")
    assert json.loads(Path("r.json").read_text())["protocol"]["items"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "same.json", "--records", "./same.json", "--force"], "-o and --records are both same.json; give each"),
        (["-o", "none/r.json"], "none/r.json: cannot be written: none is missing, or not to be written to"),
        (["--records", "none/r.jsonl"], "none/r.jsonl: cannot be written: none is missing"),
    ],
)
def test_what_could_not_be_written_is_refused_before_anything_is_measured(
    model: str, images: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setattr(cli_evaluate, "evaluate", lambda *_, **__: pytest.fail("it was measured"))
    assert refusal("evaluate", model, images, *options).startswith(message)


def test_a_result_that_cannot_be_written_is_still_printed(
    model: str, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        raise DapsError(f"{path}: the disk is full")

    monkeypatch.setattr(cli_evaluate, "write_bytes_atomically", full)
    result = run("evaluate", model, images, "--limit", 1, "-o", "r.json")
    assert result.exit_code == 2 and result.stderr == "error: r.json: the disk is full\n"
    assert result.stdout.startswith("codes") and "1 items of images" in result.stdout


def test_bad_data_is_said_in_one_line(model: str, images: Path) -> None:
    assert refusal("evaluate", model, "none").startswith(
        "none: no such file or folder, or nothing in it; expected files"
    )
    (images / "x.png").write_bytes(b"")
    assert refusal("evaluate", model, images).startswith(f"{images / 'x.png'}: is empty, 0 bytes")


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="what LPIPS needs is installed")
@pytest.mark.parametrize(("option", "name"), [("--lpips", "LPIPS"), ("--fid", "FID")])
def test_what_needs_trained_networks_says_what_to_install(model: str, images: Path, option: str, name: str) -> None:
    message = refusal("evaluate", model, images, option)
    assert message.startswith(f"{name} needs torchmetrics") and message.endswith(install_command("eval"))
