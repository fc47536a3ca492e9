"""Checkpoints: everything a run needs to resume exactly, and no pickle.

A checkpoint is a folder: ``config.json`` and ``model.safetensors`` (all that export needs), ``training.json`` (what was
done so far) and ``state.safetensors`` (optimiser moments, η, whatever else the method remembers, and the weights
themselves where ``model.safetensors`` has their moving average).
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError, DapsError, ModelFileError, OutputExistsError, first_line
from daps_tokenizer.files import check_sums, new_folder, sha256_of
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights, save_weights
from train.methods.base import Learner
from train.optimisation import AveragedWeights, parameters_of, served_weights

RECORD_KEYS: dict[str, Any] = {"experiment": dict, "steps": int, "seconds": (int, float), "stages_before": list}
_TENSOR_FILES = ("model.safetensors", "state.safetensors")


def save_checkpoint(
    folder: Path,
    method: Learner,
    optimiser: torch.optim.Optimizer,
    training: dict[str, Any],
    averaged: AveragedWeights | None = None,
) -> None:
    """Write a checkpoint to a temporary folder, then put it in place of ``folder``.

    Where weights are averaged, ``model.safetensors`` has the average and ``state.safetensors`` the weights themselves.
    """
    temporary = folder.with_name(folder.name + ".writing")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        (temporary / "config.json").write_text(method.model.config.to_json(), encoding="utf-8")
        method.before_checkpoint()
        state = _optimiser_tensors(optimiser) | _method_tensors(method)
        if averaged is not None:
            state |= {f"raw.{name}": value.detach().contiguous() for name, value in method.model.state_dict().items()}
        with served_weights(method, averaged):
            save_weights(method.model, temporary / "model.safetensors")
        save_file(state, temporary / "state.safetensors")
        record = training | {"files": {name: sha256_of(temporary / name) for name in _TENSOR_FILES}}
        (temporary / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise DapsError(f"{folder}: cannot be written ({error}); the checkpoint before it is kept") from error
    previous = folder.with_name(folder.name + ".previous")
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(previous)
    temporary.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


@torch.no_grad()
def load_checkpoint(
    folder: Path, method: Learner, optimiser: torch.optim.Optimizer, averaged: AveragedWeights | None = None
) -> dict[str, Any]:
    """Restore weights, method and optimiser in place; returns the content of ``training.json``.

    Raises:
        ModelFileError: a file is missing, damaged, or of another model or method.
    """
    training = read_record(folder)
    for name in ("files", "evaluation"):  # of these weights; the next checkpoint has others
        training.pop(name, None)
    load_weights(method.model, folder / "model.safetensors")
    try:
        state = load_file(folder / "state.safetensors")
        for name, value in _method_tensors(method).items():
            value.copy_(state[name])
        if averaged is not None:
            for name, value in method.model.state_dict().items():
                averaged.values[name].copy_(value)
                value.copy_(state[f"raw.{name}"])
        for place, parameter in parameters_of(optimiser):
            prefix = f"optimiser.{place}."
            saved = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            if saved:
                # The fused optimiser reads moments in the order of the parameter's memory, and steps on its device.
                step = saved.pop("step").to(parameter.device)
                moments = {key: torch.empty_like(parameter).copy_(value) for key, value in saved.items()}
                optimiser.state[parameter] = {"step": step, **moments}
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        path = folder / "state.safetensors"
        raise ModelFileError(f"{path}: not the state of this run ({first_line(error)})") from error
    return training


def read_record(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's ``training.json``; of a model folder, what its ``config.json`` keeps of it.

    The weights and the state are compared with their recorded sha256, where there is one.

    Raises:
        ModelFileError: missing, or not the record of a run, or the tensors are damaged.
    """
    path = folder / "training.json"
    record: Any = {} if path.exists() else read_config(folder).training
    if record:
        path = folder / "config.json"
    else:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except OSError:
            raise ModelFileError(
                f"{path}: cannot be read; expected a checkpoint folder that python -m train wrote"
            ) from None
        except ValueError as error:
            raise ModelFileError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(record, dict) or not all(isinstance(record.get(key), kind) for key, kind in RECORD_KEYS.items()):
        raise ModelFileError(f"{path}: not the record of a run; expected the keys {', '.join(sorted(RECORD_KEYS))}")
    sums = record.get("files", {})
    if not isinstance(sums, dict) or not sums.keys() <= set(_TENSOR_FILES):
        raise ModelFileError(f"{path}: files is not a record of {' and '.join(_TENSOR_FILES)}")
    check_sums(folder, sums)
    return record


def read_config(folder: Path) -> TokenizerConfig:
    """The model of a checkpoint.

    Raises:
        ModelFileError: there is no checkpoint.
    """
    try:
        return TokenizerConfig.from_file(folder / "config.json")
    except OSError:
        raise ModelFileError(
            f"{folder}: no config.json; expected a checkpoint folder that python -m train wrote"
        ) from None


def resize_checkpoint(folder: Path, size: int, out: Path, *, name: str | None = None) -> TokenizerConfig:
    """Write a checkpoint's weights and record as those of a model for images of size × size pixels.

    The folder appears whole or not at all.

    Args:
        folder: a checkpoint or a model folder whose recognition model draws its codes in windows: no weight of it, nor
            of the convolutional generative model, depends on how many windows an image has.
        size: pixels, a whole number of windows.
        out: the folder to write; a checkpoint without ``state.safetensors``, so no run resumes from it.
        name: of the resized model; the checkpoint's if None.

    Raises:
        ModelFileError: there is no checkpoint, or it lacks a file or has a damaged one.
        OutputExistsError: ``out`` exists.
        ConfigError: codes that are not drawn in windows, or a size that windows do not fill.
    """
    config = read_config(folder)
    if not config.recognition.window:
        raise ConfigError(f"{folder}: the codes of {config.name} are not drawn in windows, so it has one size of image")
    if out.exists():
        raise OutputExistsError(f"{out} already exists; choose another folder")
    shape = (size, size, config.input_shape[2])
    rows, columns = (math.ceil(size / patch) for patch in config.recognition.patch_size)
    resized = replace(config, name=name or config.name, input_shape=shape, num_tokens=rows * columns)
    resized = replace(resized, training={}, files={})  # a model folder's, which a checkpoint keeps elsewhere
    record, weights = read_record(folder), folder / "model.safetensors"
    record.get("files", {}).pop("state.safetensors", None)  # which is not copied
    record.pop("evaluation", None)  # at the other size
    load_weights(Autoencoder(resized), weights)
    with new_folder(out) as made:
        (made / "config.json").write_text(resized.to_json(), encoding="utf-8")
        (made / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(weights, made / "model.safetensors")
    return resized


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint; puts the last one back if a run ended just while it was being replaced."""
    previous = folder.with_name(folder.name + ".previous")
    if not folder.exists():
        with contextlib.suppress(FileNotFoundError):
            previous.rename(folder)
    return folder.is_dir()


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"optimiser.{place}.{key}": torch.as_tensor(value).detach().cpu().clone().contiguous()
        for place, parameter in parameters_of(optimiser)
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def _method_tensors(method: Learner) -> dict[str, Tensor]:
    """The method's own parameters and buffers, without the model's."""
    own = {f"method.{name}": value for name, value in method.state_dict().items() if not name.startswith("model.")}
    return {name: value.detach() for name, value in own.items()}
