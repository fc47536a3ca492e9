"""What a checkpoint or a model folder is besides a run's: its record, and the start of a model for larger images."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ModelFileError
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights, save_weights
from tests.settings import TINY_MLP, TINY_WINDOWS
from train.__main__ import main
from train.checkpoint import read_record

RECORD: dict[str, Any] = {"experiment": {"name": "tiny"}, "steps": 7, "seconds": 1.0, "stages_before": []}


def write_checkpoint(folder: Path, config: TokenizerConfig) -> Path:
    folder.mkdir()
    save_weights(Autoencoder(config), folder / "model.safetensors")
    (folder / "config.json").write_text(config.to_json())
    (folder / "training.json").write_text(json.dumps(RECORD))
    return folder


def resize(checkpoint: Path, size: int, out: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["resize", str(checkpoint), str(size), str(out), *options])


def test_a_model_that_draws_its_codes_in_windows_fits_images_of_any_number_of_windows(tmp_path: Path) -> None:
    small, out = write_checkpoint(tmp_path / "small", TINY_WINDOWS), tmp_path / "large"
    result = resize(small, 32, out, "--name", "large")
    assert result.exit_code == 0 and "large, 32×32 pixels, 64 codes" in result.output
    large = Autoencoder(TokenizerConfig.from_file(out / "config.json"))
    load_weights(large, out / "model.safetensors")
    assert large.generative(torch.zeros(1, 64, dtype=torch.long)).shape[1:3] == (32, 32)
    assert read_record(out) == RECORD and sorted(path.name for path in tmp_path.iterdir()) == ["large", "small"]


def test_a_model_folder_keeps_its_record_in_its_config_and_is_resized_to_a_checkpoint(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY_WINDOWS, training=RECORD, files={"model.safetensors": "0" * 64})
    model = write_checkpoint(tmp_path / "model", config)
    (model / "training.json").unlink()
    assert resize(model, 32, tmp_path / "out").exit_code == 0
    assert read_record(model) == RECORD == json.loads((tmp_path / "out" / "training.json").read_text())
    resized = TokenizerConfig.from_file(tmp_path / "out" / "config.json")
    assert (resized.training, resized.files) == ({}, {})


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "training.json"])
def test_a_checkpoint_without_a_file_is_not_resized_and_leaves_nothing_behind(missing: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", TINY_WINDOWS)
    (checkpoint / missing).unlink()
    result = resize(checkpoint, 32, tmp_path / "out")
    assert result.exit_code == 2 and missing in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("file", ["training.json", "config.json"])
def test_a_record_that_lacks_a_key_is_refused_wherever_it_is_kept(file: str, tmp_path: Path) -> None:
    incomplete = {"steps": 7}
    checkpoint = write_checkpoint(tmp_path / "checkpoint", dataclasses.replace(TINY_WINDOWS, training=incomplete))
    (checkpoint / "training.json").write_text(json.dumps(incomplete))
    if file == "config.json":
        (checkpoint / "training.json").unlink()
    with pytest.raises(ModelFileError, match=rf"{file}: not the record of a run; expected the keys experiment, "):
        read_record(checkpoint)


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (TINY_MLP, 56, "not drawn in windows, so it has one size of image"),
        (TINY_WINDOWS, 20, "recognition.window has 2 sizes that divide the grid"),
    ],
)
def test_what_cannot_be_resized_is_refused(tmp_path: Path, config: TokenizerConfig, size: int, message: str) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config)
    result = resize(checkpoint, size, tmp_path / "out")
    assert result.exit_code == 2 and message in result.output
    assert not (tmp_path / "out").exists()
