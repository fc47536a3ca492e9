"""Fixtures that several test modules share."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model.autoencoder import Autoencoder, save_weights
from tests.settings import MNIST, SMALL_MOTION, TINY_SURROUNDINGS

_LIMIT_SECONDS = 900  # of a test, on a machine that does much else: nothing here waits for ever

# Tiny tensors are faster on one thread, and workers of pytest-xdist that each start as many threads as there are cores
# only wait for each other. So a worker and what it starts have one core.
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(cores)]})
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
torch.set_num_threads(1)

if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which `nohup ... &` ignores, for all processes of tests


@pytest.fixture(autouse=True)
def _limit() -> Iterator[None]:
    """End a test that takes too long; ``subprocess.run`` then kills its process."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"took longer than {_LIMIT_SECONDS} seconds"))
    signal.alarm(_LIMIT_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Weights and samples that a test draws are the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def random_mnist_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as training writes it, of the MNIST setting with random weights."""
    return random_checkpoint(MNIST, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def random_mnist_folder(random_mnist_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported model folder of that checkpoint, named ``random-mnist``."""
    return exported(random_mnist_checkpoint, "random-mnist", tmp_path_factory)


@pytest.fixture(scope="session")
def random_motion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of small motion networks with random weights, named ``random-motion``."""
    checkpoint = random_checkpoint(SMALL_MOTION, tmp_path_factory.mktemp("checkpoint"))
    return exported(checkpoint, "random-motion", tmp_path_factory)


@pytest.fixture(scope="session")
def random_grid_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of small convolutional networks with random weights, named ``random-grid``.

    It has code windows, and patches that see their surroundings.
    """
    checkpoint = random_checkpoint(TINY_SURROUNDINGS, tmp_path_factory.mktemp("checkpoint"))
    return exported(checkpoint, "random-grid", tmp_path_factory)


def random_checkpoint(config: TokenizerConfig, folder: Path, record: dict[str, Any] | None = None) -> Path:
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(Autoencoder(config), folder / "model.safetensors")
    (folder / "config.json").write_text(config.to_json())
    (folder / "training.json").write_text(json.dumps(record or {"steps": 0}))
    return folder


def exported(checkpoint: Path, name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a checkpoint; the worker that needs it first exports it for all: it takes half a minute."""
    from export.folder import export_folder

    with _for_all_workers(tmp_path_factory, name) as folder:
        if not folder.exists():
            readme = tmp_path_factory.mktemp("card") / "card.md"
            readme.write_text("# Random weights\n")
            export_folder(checkpoint, folder, name=name, readme=readme)
    return folder


@contextmanager
def _for_all_workers(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A path that all workers of pytest-xdist share; one of them at a time is in the block."""
    base = tmp_path_factory.getbasetemp()
    models = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "models"
    models.mkdir(exist_ok=True)
    with FileLock(models / f"{name}.lock"):
        yield models / name


@pytest.fixture(scope="session")
def random_generators(random_mnist_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a generator of each kind with random weights, for the codes of ``random_mnist_folder``."""
    from click.testing import CliRunner

    from daps_tokenizer.hub import open_model
    from export.__main__ import main
    from tests.generators import random_generator_checkpoint

    checkpoints = tmp_path_factory.mktemp("checkpoints")
    made = {}
    for kind in ("flow", "causal"):
        with _for_all_workers(tmp_path_factory, f"random-{kind}") as folder:
            made[kind] = folder
            if not folder.exists():
                checkpoint = random_generator_checkpoint(kind, open_model(random_mnist_folder), checkpoints / kind)
                result = CliRunner().invoke(main, ["generator", str(checkpoint), str(folder)])
                assert result.exit_code == 0 and f"{folder}/generator.onnx" in result.output, result.output
    return made


@pytest.fixture(scope="session")
def random_text_generator(random_mnist_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a generator with random weights that is told a text, a path and other codes, named ``random-text``,
    for the codes of ``random_mnist_folder``."""
    from daps_tokenizer.hub import open_model
    from export.generator import export_generator
    from tests.generators import random_generator_checkpoint

    checkpoint = tmp_path_factory.mktemp("checkpoint") / "text"
    random_generator_checkpoint("causal", open_model(random_mnist_folder), checkpoint, is_told=True)
    return export_generator(checkpoint, tmp_path_factory.mktemp("generators") / "random-text").path
