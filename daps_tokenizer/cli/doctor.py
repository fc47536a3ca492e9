"""``daps-tokenize doctor``: what runs models here, what does not and why, and the command that fixes it."""

from __future__ import annotations

import importlib.metadata
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

import click

from daps_tokenizer.backends import open_backend
from daps_tokenizer.backends.choice import BackendOnDevice, reinstall_onnxruntime, reinstall_torch, runtimes
from daps_tokenizer.backends.gpus import NO_GPU, find_gpu
from daps_tokenizer.cli.options import json_option
from daps_tokenizer.errors import DapsError
from daps_tokenizer.hub import open_model
from daps_tokenizer.install import install_command

_TRIED_WITH = "daps-mnist"
_PACKAGES = re.compile(r"(onnxruntime|tensorrt)(-.*)?|torch|triton|cuda-bindings|nvidia-cudnn-.*")
_OF_ONNX_RUNTIME = re.compile(r"onnxruntime(?!-ep-|-extensions|-genai|-tools)(-.*)?")


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Say which runtimes and devices work here, which do not and why, and how to fix it.

    Each is tried with the built-in model daps-mnist. The exit code is 1 if something has to be fixed.
    """
    described = examine()
    if as_json:
        print(json.dumps(described))
    else:
        _show(described)
    raise click.exceptions.Exit(1 if described["fix"] else 0)


def examine() -> dict[str, Any]:
    """What is installed, which packages clash, what works, what ``auto`` takes and why, and what fixes the rest."""
    gpu, packages = find_gpu(), _packages()
    sharing = _sharing_a_folder()
    clash = f"{' and '.join(sharing)} write to one folder; what was installed last is used" if sharing else ""
    tried = [_tried(runtime) for runtime in runtimes()]
    on_cpu = next(row for row in tried if (row["backend"], row["device"]) == ("onnx", "cpu"))
    fix = []
    if clash or not on_cpu["works"]:
        fix.append(reinstall_onnxruntime(for_cuda=gpu is not None, installed=sharing))
    if gpu is not None and not any(row["works"] and row["device"] != "cpu" for row in tried):
        fix.append(_fix_torch(packages.get("torch", "")))
    capability = "" if gpu is None else "{}.{}".format(*gpu.compute_capability)
    return {
        "gpu": NO_GPU if gpu is None else f"{gpu.name}, compute capability {capability}, driver for CUDA {gpu.cuda[0]}",
        "packages": packages,
        "clash": clash,
        "runtimes": tried,
        "auto": _auto(tried),
        "fix": fix,
    }


def _fix_torch(version: str) -> str:
    """What makes PyTorch run on the GPU; where it is built for CUDA and fails, that is not a package of ours."""
    if not version:
        return install_command("torch")
    if version.endswith("+cpu"):
        return reinstall_torch()
    return f"update the NVIDIA driver, or install the PyTorch that pytorch.org names for it: {version} fails, see above"


def _distributions() -> Iterator[tuple[str, importlib.metadata.Distribution]]:
    """What is installed of all that runs models, by normalised names (PEP 503)."""
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.name or "").lower()
        if _PACKAGES.fullmatch(name):
            yield name, distribution


def _packages() -> dict[str, str]:
    """Versions by name; of a package that is there twice, the one that is imported."""
    found: dict[str, str] = {}
    for name, distribution in _distributions():
        found.setdefault(name, distribution.version)
    return dict(sorted(found.items()))


def _sharing_a_folder() -> list[str]:
    """The packages of ONNX Runtime that are in one folder; none where each has its own, as with pip's --target."""
    by_folder: dict[str, set[str]] = {}
    for name, distribution in _distributions():
        if _OF_ONNX_RUNTIME.fullmatch(name):
            by_folder.setdefault(str(distribution.locate_file("onnxruntime")), set()).add(name)
    return sorted(next((names for names in by_folder.values() if len(names) > 1), set()))


def _tried(runtime: BackendOnDevice) -> dict[str, Any]:
    """A backend on a device: whether it works, by opening a model with it, or why not."""
    row = {"backend": runtime.backend, "device": runtime.device, "installed": runtime.installed}
    if runtime.missing:
        return row | {"works": False, "why": runtime.missing}
    try:
        opened = open_backend(open_model(_TRIED_WITH), backend=runtime.backend, device=runtime.device, dtype="float32")
    except DapsError as error:
        return row | {"works": False, "why": str(error)}
    return row | {"works": True, "why": opened.info}


def _auto(tried: list[dict[str, Any]]) -> str:
    """What ``backend="auto"`` takes, and what it passes over."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is in the rows
        try:
            taken = open_backend(open_model(_TRIED_WITH), backend="auto", device=None, dtype="float32")
        except DapsError:
            return "nothing, as none works"
    before = []
    for row in tried:
        if (row["backend"], row["device"]) == (taken.name, taken.device):
            break
        before.append(f"{row['backend']} on {row['device']}")
    why = f"the first that works, after {', '.join(before)}" if before else "the fastest, and it works"
    return f"{taken.name} on {taken.device}: {why}"


def _show(described: dict[str, Any]) -> None:
    packages = [f"{name} {version}" for name, version in described["packages"].items()]
    lines = [("GPU", described["gpu"]), *(("" if n else "packages", line) for n, line in enumerate(packages))]
    if described["clash"]:
        lines.append(("clash", described["clash"]))
    for row in described["runtimes"]:
        verdict = "works" if row["works"] else "does not work" if row["installed"] else "not installed"
        lines.append((f"{row['backend']} on {row['device']}", f"{verdict}: {row['why']}"))
    lines.append(("auto takes", described["auto"]))
    lines += [("to fix", line) for line in described["fix"] or ["nothing"]]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        print(f"{name:{width}}  {text}")
