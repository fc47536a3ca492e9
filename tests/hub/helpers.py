"""A tiny model, and the real client of the Hub in a process of its own.

HF_ENDPOINT is read when huggingface_hub is first imported, so it has to be in the environment before, as with a user.
"""

import dataclasses
import hashlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from daps_tokenizer.hub import ModelFolder
from tests.hub.hub_server import LocalHub
from tests.settings import CIFAR10

FILES = {
    "model.safetensors": save({"weight": np.arange(6, dtype=np.float32)}),
    "onnx/decoder.onnx": b"decoder " * 50,
    "onnx/encoder.onnx": b"encoder " * 50,
}
CONFIG = dataclasses.replace(CIFAR10, files={name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()})
MODEL = {"README.md": b"# Tiny\n", "config.json": CONFIG.to_json().encode(), **FILES}

Call = Callable[..., Any]


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@contextmanager
def client_process(endpoint: str, home: Path, **environment: str) -> Iterator[Call]:
    """A function that calls another one in a process where HF_ENDPOINT is ``endpoint``."""
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"):
                patch.delenv(name, raising=False)
            for name, value in environment.items():
                patch.setenv(name, value)
            pool.submit(str).result()  # the process starts here, and keeps this environment
        yield lambda function, *args, **kwargs: pool.submit(function, *args, **kwargs).result(timeout=60)


def flip_a_bit(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


def contents(model: ModelFolder) -> dict[str, bytes]:
    return {name: model.file(name).read_bytes() for name in FILES}


def files_on(hub: LocalHub, repo_id: str, branch: str = "main") -> dict[str, bytes]:
    repository = hub.repositories[repo_id]
    return repository.commits[repository.refs[branch]]
