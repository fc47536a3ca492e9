"""The GPU session, gone through on a CPU in tiny sizes: a run on a lent GPU has no time for what a CPU can find."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.paths import ROOT
from tests.photographs import encode_image, write_tar

SESSION, PIECES = ROOT / "benchmarks" / "gpu" / "session.sh", ROOT / "benchmarks" / "gpu" / "pieces.sh"


def run_session(out: Path, **environment: str) -> str:
    """What it prints, with this python as ``python3``."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    settings = {
        "OUT": str(out),
        "WORK": str(out / "work"),
        "DRY_RUN": "1",
        "PATH": path,
        "OMP_NUM_THREADS": "1",
        "SECONDS_IN_ALL": "1500",
    }
    finished = subprocess.run(
        ["bash", str(SESSION)], capture_output=True, text=True, env=os.environ | settings | environment, check=True
    )
    return finished.stdout


@pytest.mark.slow
def test_the_session_measures_and_keeps_what_it_has(tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = run_session(out, DAPS_DATA=str(tmp_path / "none"))
    for name in ("doctor", "warm", "parity", "calls", "steps", "onnx", "drawing"):
        assert f"exit 0 of {name}" in printed, printed
    assert "== train:" in printed and "not done" in printed  # without data
    with tarfile.open(out / "results.tar") as archive:
        rows = {
            name: json.load(archive.extractfile(f"results/{name}.json"))["rows"]  # type: ignore[arg-type]
            for name in ("parity", "calls", "training", "onnx", "drawing")
        }
    assert [row["greedy_codes_equal"] for row in rows["parity"]] == [1.0, 1.0]  # torch and onnx, as the reference
    assert {row["action"] for row in rows["calls"]} >= {"encode", "sample", "decode"}
    eager, captured = rows["training"]
    assert captured["log_p"] == pytest.approx(eager["log_p"], rel=1e-2) and eager["median_ms"] > 0
    assert {row["codes_equal"] for row in rows["drawing"] if "codes_equal" in row} == {1.0}


@pytest.mark.slow
def test_the_session_trains_on_what_data_there_is_and_keeps_the_weights(tmp_path: Path) -> None:
    data, out, rng = tmp_path / "data", tmp_path / "out", np.random.default_rng(0)
    (data / "cifar10").mkdir(parents=True)
    for name in ("photos256-train-0", "photos256-val"):
        photos = {f"{n}.png": encode_image(rng.integers(0, 256, (256, 256, 3), np.uint8)) for n in range(4)}
        write_tar(data / f"{name}.tar", photos)
    for split in ("train", "test"):
        mosaic = Image.fromarray(rng.integers(0, 256, (25 * 32, 40 * 32, 3), np.uint8))
        mosaic.save(data / "cifar10" / f"{split}_0.webp", lossless=True, method=0)
        np.save(data / "cifar10" / f"{split}_labels.npy", np.zeros(1000, np.uint8))
    printed = run_session(out, DAPS_DATA=str(data), PARTS="train")
    for name in ("photo", "cifar10"):
        assert f"exit 0 of train {name}" in printed, printed
        with tarfile.open(out / f"{name}.tar") as archive:
            assert f"{name}/checkpoint/model.safetensors" in archive.getnames()


def test_a_session_without_time_starts_no_part(tmp_path: Path) -> None:
    printed = run_session(tmp_path, SECONDS_IN_ALL="1", PARTS="doctor calls")
    assert printed.splitlines() == ["== doctor: no time was left", "== calls: no time was left"]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_a_lean_checkout_travels_and_the_whole_one_comes_back(tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "-q", "--shared", ROOT, tmp_path / "clone"], check=True)

    def lean(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(tmp_path / "clone" / "benchmarks" / "gpu" / "lean.sh"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    pretrained = tmp_path / "clone" / "daps_tokenizer" / "pretrained"
    assert lean("daps-nothing").stderr.startswith("error: daps-nothing: not in ")
    assert float(lean("daps-photo-256", "daps-cifar10", "daps-mnist").stdout.removesuffix(" MiB\n")) < 60
    assert sorted(path.name for path in pretrained.iterdir()) == ["daps-cifar10", "daps-mnist", "daps-photo-256"]
    assert lean("back").returncode == 0 and (pretrained / "generators").is_dir()
    (tmp_path / "clone" / "README.md").write_text("changed")
    assert lean("daps-mnist").stderr == "error: commit or stash first; see git status\n"


def pieces(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(PIECES), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_file_is_whole_again_after_it_was_in_pieces(tmp_path: Path) -> None:
    wheel = tmp_path / "some.whl"
    wheel.write_bytes(os.urandom(2_500_000))
    assert pieces("split", wheel, tmp_path / "pieces", 1).returncode == 0
    assert len(list((tmp_path / "pieces").glob("*.piece-*"))) == 3
    assert pieces("join", tmp_path / "pieces", tmp_path / "joined").returncode == 0
    assert (tmp_path / "joined" / "some.whl").read_bytes() == wheel.read_bytes()


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_piece_that_is_missing_or_damaged_is_an_error_and_no_file_is_written(tmp_path: Path, damage: str) -> None:
    wheel = tmp_path / "some.whl"
    wheel.write_bytes(os.urandom(1_500_000))
    pieces("split", wheel, tmp_path / "pieces", 1)
    last = tmp_path / "pieces" / "some.whl.piece-001"
    if damage == "missing":
        last.unlink()
    else:
        last.write_bytes(b"\0" * last.stat().st_size)
    refused = pieces("join", tmp_path / "pieces", tmp_path / "joined")
    assert refused.returncode == 2 and "error: some.whl: a piece is missing or damaged" in refused.stderr
    assert list((tmp_path / "joined").iterdir()) == []


def test_pieces_are_asked_for_by_name(tmp_path: Path) -> None:
    assert pieces("split", tmp_path / "none", tmp_path).stderr == f"error: {tmp_path / 'none'}: no such file\n"
    assert "bring what split wrote" in pieces("join", tmp_path, tmp_path / "out").stderr
    assert pieces().returncode == 2
