"""What a checkpoint or a model folder is besides a run's: its record, and the start of a model for larger images."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ModelFileError
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights
from export.folder import config_to_export
from tests.conftest import random_checkpoint
from tests.paths import ROOT
from tests.settings import TINY_MLP, TINY_WINDOWS
from tests.train.test_training import experiment, run
from train.__main__ import main
from train.checkpoint import read_record
from train.recorder import read_metrics

RECORD: dict[str, Any] = {"experiment": {"name": "tiny"}, "steps": 7, "seconds": 1.0, "stages_before": []}


def resize(checkpoint: Path, size: int, out: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["resize", str(checkpoint), str(size), str(out), *options])


def test_a_model_that_draws_its_codes_in_windows_fits_images_of_any_number_of_windows(tmp_path: Path) -> None:
    measured = RECORD | {"evaluation": {"greedy_psnr": 30.0}}
    small, out = random_checkpoint(TINY_WINDOWS, tmp_path / "small", measured), tmp_path / "large"
    result = resize(small, 32, out, "--name", "large")
    assert result.exit_code == 0 and "large, 32×32 pixels, 64 codes" in result.output
    large = Autoencoder(TokenizerConfig.from_file(out / "config.json"))
    load_weights(large, out / "model.safetensors")
    assert large.generative(torch.zeros(1, 64, dtype=torch.long)).shape[1:3] == (32, 32)
    assert read_record(out) == RECORD  # without the evaluation, which was of the other size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large", "small"]


def test_a_model_folder_keeps_its_record_in_its_config_and_is_resized_to_a_checkpoint(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY_WINDOWS, training=RECORD, files={"model.safetensors": "0" * 64})
    model = random_checkpoint(config, tmp_path / "model", RECORD)
    (model / "training.json").unlink()
    assert resize(model, 32, tmp_path / "out").exit_code == 0
    assert read_record(model) == RECORD == json.loads((tmp_path / "out" / "training.json").read_text())
    resized = TokenizerConfig.from_file(tmp_path / "out" / "config.json")
    assert (resized.training, resized.files) == ({}, {})


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "training.json"])
def test_a_checkpoint_without_a_file_is_not_resized_and_leaves_nothing_behind(missing: str, tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TINY_WINDOWS, tmp_path / "checkpoint", RECORD)
    (checkpoint / missing).unlink()
    result = resize(checkpoint, 32, tmp_path / "out")
    assert result.exit_code == 2 and missing in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("file", ["training.json", "config.json"])
def test_a_record_that_lacks_a_key_is_refused_wherever_it_is_kept(file: str, tmp_path: Path) -> None:
    incomplete = {"steps": 7}
    checkpoint = random_checkpoint(dataclasses.replace(TINY_WINDOWS, training=incomplete), tmp_path / "checkpoint")
    (checkpoint / "training.json").write_text(json.dumps(incomplete))
    if file == "config.json":
        (checkpoint / "training.json").unlink()
    with pytest.raises(ModelFileError, match=rf"{file}: not the record of a run; expected the keys experiment, "):
        read_record(checkpoint)


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (TINY_MLP, 56, "not drawn in windows, so it has one size of image"),
        (TINY_WINDOWS, 20, "recognition.window must be 2 sizes that divide the grid"),
    ],
)
def test_what_cannot_be_resized_is_refused(tmp_path: Path, config: TokenizerConfig, size: int, message: str) -> None:
    checkpoint = random_checkpoint(config, tmp_path / "checkpoint", RECORD)
    result = resize(checkpoint, size, tmp_path / "out")
    assert result.exit_code == 2 and message in result.output
    assert not (tmp_path / "out").exists()


# Damage


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # in the last tensor, which safetensors does not notice
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors"])
def test_a_flipped_bit_in_a_checkpoint_is_found(name: str, tmp_path: Path) -> None:
    run(experiment(steps=1), tmp_path)
    flip_a_bit(tmp_path / "checkpoint" / name)
    with pytest.raises(ModelFileError, match=rf"checkpoint/{name}: is damaged, its sha256 is not the recorded one"):
        run(experiment(steps=2), tmp_path)


def test_a_damaged_checkpoint_is_not_exported(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TINY_MLP, tmp_path / "checkpoint", RECORD)
    (checkpoint / "training.json").write_text(json.dumps(RECORD | {"files": {"model.safetensors": "0" * 64}}))
    with pytest.raises(ModelFileError, match=r"checkpoint/model\.safetensors: is damaged"):
        config_to_export(checkpoint)


@pytest.mark.parametrize(
    "record",
    [{"steps": "7"}, {"stages_before": None}, {"experiment": []}, {"seconds": None}, {"files": {"../x": "0"}}],
)
def test_a_record_whose_values_are_no_runs_is_refused(record: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TINY_MLP, tmp_path / "checkpoint", RECORD)
    (checkpoint / "training.json").write_text(json.dumps(RECORD | record))
    with pytest.raises(ModelFileError, match=r"training\.json: "):
        read_record(checkpoint)


@pytest.mark.parametrize("line", ["not JSON", "[]", '{"step": "1", "kind": "train"}', '{"step": 1}', "\xff"])
def test_a_damaged_line_of_metrics_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "kind": "train"}}\n{line}\n', encoding="latin-1")
    with pytest.raises(ModelFileError, match=r"metrics\.jsonl: line 2 is not a record of a step; repair it or move"):
        read_metrics(path)


def test_a_full_disk_is_one_line_and_the_checkpoint_before_is_kept(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TINY_MLP, tmp_path / "checkpoint", RECORD)
    before = (checkpoint / "model.safetensors").read_bytes()
    # No file of this process may be larger than 5,000 bytes, which fails as a full disk does.
    script = f"""
import resource, torch
from pathlib import Path
from tests.settings import TINY_MLP
from daps_tokenizer.model.autoencoder import Autoencoder
from train.checkpoint import save_checkpoint
from train.methods import build_method
method = build_method("daps", Autoencoder(TINY_MLP), {{}})
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    save_checkpoint(Path({str(checkpoint)!r}), method, torch.optim.Adam(method.parameters()), {{}})
except Exception as error:
    print(type(error).__name__, error)
"""
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout.startswith(f"DapsError {checkpoint}: cannot be written (") and found.stdout.count("\n") == 1
    assert (checkpoint / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
