"""``daps-tokenize doctor``: what runs models here, what does not and why, and the command that fixes it."""

from __future__ import annotations

import importlib.metadata
import json
import re
import warnings
from typing import Any

import click

from daps_tokenizer.backends import open_backend
from daps_tokenizer.backends.choice import ONNX_ON_CPU, ONNX_ON_GPU, BackendOnDevice, runtimes
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
    sharing = [name for name in packages if _OF_ONNX_RUNTIME.fullmatch(name)]
    clash = f"{' and '.join(sharing)} write to one folder; what was installed last is used" if len(sharing) > 1 else ""
    tried = [_tried(runtime) for runtime in runtimes()]
    on_cpu = next(row for row in tried if (row["backend"], row["device"]) == ("onnx", "cpu"))
    fix = [ONNX_ON_CPU if gpu is None else ONNX_ON_GPU] if clash or not on_cpu["works"] else []
    if gpu is not None and not any(row["works"] and row["device"] != "cpu" for row in tried):
        fix.append(install_command("torch"))
    capability = "" if gpu is None else "{}.{}".format(*gpu.compute_capability)
    return {
        "gpu": NO_GPU if gpu is None else f"{gpu.name}, compute capability {capability}, driver for CUDA {gpu.cuda[0]}",
        "packages": packages,
        "clash": clash,
        "runtimes": tried,
        "auto": _auto(tried),
        "fix": fix,
    }


def _packages() -> dict[str, str]:
    """What is installed of all that runs models, with versions."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.name or "").lower()
        if _PACKAGES.fullmatch(name):
            found.setdefault(name, distribution.version)
    return dict(sorted(found.items()))


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
