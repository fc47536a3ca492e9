"""A checkpoint becomes a model folder: config, weights, graphs, and the sha256 of each."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import onnx

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError, ModelFileError, OutputExistsError, UnsupportedError
from daps_tokenizer.files import check_sums, new_folder, sha256_of
from daps_tokenizer.hub import ModelFolder
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights, save_weights
from export.card import model_card
from export.check import compare, random_inputs
from export.descriptions import describe
from export.encoder import export_encoder
from export.modules import PLAIN
from export.onnx_graphs import (
    export_at_once,
    export_context,
    export_decoder,
    export_likelihood,
    export_pass,
    export_scorer,
    export_step,
)
from export.upsampling import with_convolutions
from export.weights import SharedWeights

_SELF_CHECK_ITEMS = 2


def export_folder(
    checkpoint: Path, out: Path, *, name: str | None = None, readme: Path | None = None, overwrite: bool = False
) -> ModelFolder:
    """Write the model folder of a checkpoint; it appears whole or not at all.

    Before it appears, every graph is run on random inputs and compared with torch.

    Args:
        checkpoint: a folder with ``config.json``, ``model.safetensors`` and optionally ``training.json``, the record of
            how the weights came to be.
        out: the folder to write.
        name: the model's name; the checkpoint's if None.
        readme: a model card; one is written from the config if None.
        overwrite: replace a model folder that is already there.

    Raises:
        OutputExistsError: ``out`` exists and is not to be overwritten, or is something else than a model folder.
        ModelFileError: the checkpoint lacks a file or has a damaged one, or the graphs do not compute what torch does.
        ConfigError: ``config.json`` or ``training.json`` is not valid.
        UnsupportedError: a Gaussian VAE, which has no codes.
    """
    check_free(out, overwrite=overwrite, holds="onnx")
    config = config_to_export(checkpoint, name)
    if config.recognition.kind == "gaussian":
        raise UnsupportedError(f"{checkpoint}: a Gaussian VAE has no codes, so there is no tokenizer to export")
    if readme is not None and not readme.is_file():
        raise ModelFileError(f"{readme}: no such file; expected a model card to use as README.md")
    model = Autoencoder(config).eval()
    load_weights(model, checkpoint / "model.safetensors")

    with new_folder(out) as made:
        (made / "onnx").mkdir(parents=True)
        save_weights(model, made / "model.safetensors")
        (made / "model.safetensors").chmod(0o644)  # safetensors makes files that only their owner may read
        _write_graphs(model, made / "onnx")
        files = {path.relative_to(made).as_posix(): sha256_of(path) for path in _files(made)}
        config = dataclasses.replace(config, files=files)
        # The card is not among the files that are checked: it may be edited on the Hub.
        card = model_card(config) if readme is None else readme.read_text(encoding="utf-8")
        (made / "README.md").write_text(card, encoding="utf-8")
        (made / "config.json").write_text(config.to_json(), encoding="utf-8")
        report = compare(ModelFolder(made, config), random_inputs(config, _SELF_CHECK_ITEMS))
        if not report.passed:
            raise ModelFileError(
                f"{checkpoint}: the exported graphs do not compute what torch does: {report.failures[0]}"
            )
        if out.exists():
            shutil.rmtree(out)
    return ModelFolder(out, config)


def check_free(out: Path, *, overwrite: bool, holds: str) -> None:
    """Refuse a folder that is there, unless it is to be replaced and was exported.

    Args:
        out: the folder to write.
        overwrite: whether it may be replaced.
        holds: a file or folder that every folder of this kind has, and no checkpoint.

    Raises:
        OutputExistsError: it may not be replaced.
    """
    if not out.exists():
        return
    if not overwrite:
        raise OutputExistsError(f"{out} already exists; choose another folder or pass --force")
    if not ((out / "config.json").is_file() and (out / holds).exists()):
        raise OutputExistsError(f"{out} exists and was not exported (no {holds} in it), so --force does not replace it")


def config_to_export(checkpoint: Path, name: str | None = None) -> TokenizerConfig:
    """The config of a checkpoint, with the record of its training, under the name that is given."""
    path = checkpoint / "config.json"
    if not path.is_file():
        raise ModelFileError(
            f"{checkpoint} has no config.json; expected a checkpoint folder written by `python -m train`"
        )
    config = TokenizerConfig.from_file(path)
    return dataclasses.replace(config, name=name or config.name, training=_read_training(checkpoint, config.training))


def _read_training(checkpoint: Path, default: dict[str, Any]) -> dict[str, Any]:
    path = checkpoint / "training.json"
    if not path.is_file():
        return default
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping, found {type(content).__name__}")
    check_sums(checkpoint, content.pop("files", {}))
    for stage in (content, *content.get("stages_before", ())):
        _forget_places(stage.get("experiment", {}))
    return content


def _forget_places(experiment: dict[str, Any]) -> None:
    """Leave the last part of absolute paths: a model folder goes to others, the name of a home folder does not."""
    data = experiment.get("data") or {}
    for key in ("train", "test"):
        data.update({key: [_last_part(path) for path in data[key]]} if key in data else {})
    if experiment.get("start_from"):
        experiment["start_from"] = _last_part(experiment["start_from"])


def _last_part(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path


def _encoder_graphs(model: Autoencoder) -> dict[str, onnx.ModelProto]:
    """Passes over all positions, and single steps; or one pass, where codes do not depend on each other."""
    if model.config.recognition.kind != "autoregressive":
        return {"encoder": export_at_once(model)}
    return {
        "encoder": export_encoder(model),
        "encoder_context": export_context(model, PLAIN),
        "encoder_pass": export_pass(model, PLAIN),
        "encoder_step": export_step(model, PLAIN),
    }


def _write_graphs(model: Autoencoder, folder: Path) -> None:
    decoding = with_convolutions(model)
    graphs = _encoder_graphs(model) | {
        "decoder": export_decoder(decoding),
        "likelihood": export_likelihood(decoding),
    }
    if model.config.recognition.has_probabilities:
        graphs["scorer"] = export_scorer(model)
    weights = SharedWeights()
    for name, graph in graphs.items():
        describe(graph, name, model.config)
        weights.move_out(graph.graph)
        onnx.save(graph, folder / f"{name}.onnx")
    weights.write(folder)
    for name in graphs:
        onnx.checker.check_model(folder / f"{name}.onnx", full_check=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
