"""The page in ``web/``, the runtime and model folders together as one folder that any static host serves."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from daps_tokenizer.config import Robot
from daps_tokenizer.errors import DapsError, OutputExistsError, UnsupportedError
from daps_tokenizer.files import new_folder
from daps_tokenizer.hub import GeneratorFolder, ModelFolder, built_in_generators, open_generator
from daps_tokenizer.motion.features import feature_table
from daps_tokenizer.motion.robots import robot_of

_ROOT = Path(__file__).resolve().parents[1]
_PAGE = _ROOT / "web"
_EXAMPLES = {
    "image": ("cat.png", "coffee.webp", "astronaut.webp", "rocket.webp"),
    "grey": ("digit.png",),
    "h1": ("walk.csv",),
    "g1": ("walk_g1.csv",),
}
_RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_GRAPHS = ("encoder", "decoder", "scorer", "encoder_context", "encoder_pass")
_MODEL_FILES = ("onnx/weights.bin", *(f"onnx/{name}.onnx" for name in _GRAPHS))
_GENERATOR_FILES = ("generator.onnx", "model.safetensors")
_VERSION_MARK = b'"not exported"'


def export_site(models: list[ModelFolder], out: Path, *, overwrite: bool = False) -> list[Path]:
    """Write the site of these models; it appears whole or not at all.

    ``site.json`` tells the page which models and examples there are and how large each file is, and the service worker
    keeps files under the hash of all of them, so that a new site replaces an old one in every browser.

    Built-in generators of one of the models come with it.

    Args:
        models: their folders, the first of each modality is shown first.
        out: the folder to write.
        overwrite: replace ``out`` if it is such a site.

    Returns:
        The files of the site, relative to ``out``.

    Raises:
        OutputExistsError: ``out`` exists and is not to be overwritten, or is something else than a site.
        DapsError: onnxruntime-web was not installed into ``web/node_modules``.
        UnsupportedError: a model without probabilities (a quantiser), of which the page has nothing to show.
        ModelFileError: a file of a model is missing or damaged.
    """
    if out.exists() and not (overwrite and (out / "site.json").is_file()):
        why = "is no site made by this command" if overwrite else "already exists; --force replaces it"
        raise OutputExistsError(f"{out}: {why}")
    runtime = _PAGE / "node_modules" / "onnxruntime-web" / "dist"
    if not runtime.is_dir():
        raise DapsError(f"onnxruntime-web is not installed; run `npm ci` in {_PAGE.name}/ once")
    with new_folder(out) as folder:
        for path in sorted(_PAGE.glob("*")):
            if path.suffix in (".html", ".css", ".js", ".svg"):
                shutil.copy(path, folder)
        (folder / "runtime").mkdir()
        for name in _RUNTIME:
            content = (runtime / name).read_bytes()
            # Compressed here, because not every static host compresses WebAssembly: 14 MB become 3.7 MB.
            packed = name.endswith(".wasm")
            target = folder / "runtime" / (f"{name}.gz" if packed else name)
            target.write_bytes(gzip.compress(content, 9, mtime=0) if packed else content)
        site = {
            "models": [_copy_model(model, folder) for model in models],
            "generators": [_copy_generator(generator, folder) for generator in _generators_of(models)],
            "runtime": sizes(folder / "runtime", folder),
            "examples": _copy_examples({_kind_of(model) for model in models}, folder),
        }
        (folder / "site.json").write_text(json.dumps(site) + "\n", encoding="utf-8")
        files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        _write_version(folder, files)
        if out.exists():
            shutil.rmtree(out)
    return files


def sizes(part: Path, folder: Path) -> dict[str, int]:
    """Bytes of each file of a part of the site, by its path in ``folder``."""
    files = sorted(path for path in part.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _copy_model(model: ModelFolder, folder: Path) -> dict[str, Any]:
    config = model.config
    if "onnx/scorer.onnx" not in config.files:
        raise UnsupportedError(f"{config.name} has no probabilities to show; the page takes autoregressive models")
    target = folder / "models" / config.name
    (target / "onnx").mkdir(parents=True)
    for name in _MODEL_FILES:
        shutil.copyfile(model.file(name), target / name)
    shutil.copyfile(model.path / "config.json", target / "config.json")
    return {
        "name": config.name,
        "folder": f"models/{config.name}",
        "modality": config.modality,
        "inputShape": config.input_shape,
        "numTokens": config.num_tokens,
        "vocabSize": config.vocab_size,
        "weightsSha256": config.weights_sha256,
        "files": sizes(target, folder),
        "robot": robot_table(robot_of(config)) if config.motion else None,
    }


def _generators_of(models: list[ModelFolder]) -> list[GeneratorFolder]:
    """The built-in generators that draw codes of one of the models, and are told a label at most, as daps.js is."""
    sha256 = {model.config.weights_sha256 for model in models}
    generators = [open_generator(name) for name in built_in_generators()]
    drawn = [generator for generator in generators if not generator.config.conditions]
    return [generator for generator in drawn if generator.config.tokenizer.weights_sha256 in sha256]


def _copy_generator(generator: GeneratorFolder, folder: Path) -> dict[str, Any]:
    config = generator.config
    target = folder / "generators" / config.name
    target.mkdir(parents=True)
    for name in _GENERATOR_FILES:
        shutil.copyfile(generator.file(name), target / name)
    shutil.copyfile(generator.path / "config.json", target / "config.json")
    return {
        "name": config.name,
        "folder": f"generators/{config.name}",
        "tokenizer": config.tokenizer.name,
        "labels": config.labels,
        "guidance": config.guidance,
        "temperature": config.temperature,
        "files": sizes(target, folder),
    }


def _kind_of(model: ModelFolder) -> str:
    """Which examples a model is shown with: a kind of images, or the name of the robot."""
    if model.config.motion:
        return robot_of(model.config).name
    return "grey" if model.config.input_shape[-1] == 1 else "image"


def _copy_examples(kinds: set[str], folder: Path) -> dict[str, list[str]]:
    (folder / "examples").mkdir()
    chosen = {kind: names for kind, names in _EXAMPLES.items() if kind in kinds}
    for names in chosen.values():
        for name in names:
            shutil.copyfile(_ROOT / "examples" / name, folder / "examples" / name)
    return {kind: [f"examples/{name}" for name in names] for kind, names in chosen.items()}


def robot_table(robot: Robot) -> dict[str, Any]:
    """What ``motion.js`` computes with."""
    root = [*(f"root {axis}" for axis in "xyz"), *(f"root quaternion {axis}" for axis in "xyzw")]
    return {
        "name": robot.name.upper(),
        "links": [
            {key: getattr(joint, key) for key in ("parent", "position", "axis", "mounting", "limits")}
            for joint in robot.joints
        ],
        "sites": [(site.name, site.link, site.position) for site in robot.sites],
        "centre": robot.centre,
        "feet": robot.feet,
        "features": robot.features,
        "bones": robot.bones,
        "columns": [*root, *(name.replace("_", " ") for name in robot.joint_names)],
        "turning": feature_table(robot).turning,
    }


def _write_version(folder: Path, files: list[Path]) -> None:
    """Write the hash of all files, and what the page needs to open without a network, into the service worker."""
    whole = hashlib.sha256()
    for name in files:
        whole.update(name.as_posix().encode() + b"\0" + hashlib.sha256((folder / name).read_bytes()).digest())
    worker = folder / "sw.js"
    page = [name.as_posix() for name in files if len(name.parts) == 1 and name.name != "sw.js"]
    record = json.dumps({"version": whole.hexdigest()[:16], "page": page}).encode()
    worker.write_bytes(worker.read_bytes().replace(_VERSION_MARK, record))
