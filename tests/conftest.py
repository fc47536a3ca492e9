"""Fixtures that several test modules share."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model.autoencoder import Autoencoder, save_weights
from tests.settings import MNIST, SMALL_MOTION, TINY_GRID

_LIMIT_SECONDS = 900  # of a test, on a machine that does much else: nothing here waits for ever

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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors are faster on one thread, several times so where other programs use the cores too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    """A model folder of small convolutional networks with random weights, named ``random-grid``."""
    checkpoint = random_checkpoint(TINY_GRID, tmp_path_factory.mktemp("checkpoint"))
    return exported(checkpoint, "random-grid", tmp_path_factory)


def random_checkpoint(config: TokenizerConfig, folder: Path) -> Path:
    torch.manual_seed(0)
    save_weights(Autoencoder(config), folder / "model.safetensors")
    (folder / "config.json").write_text(config.to_json())
    (folder / "training.json").write_text('{"steps": 0}')
    return folder


def exported(checkpoint: Path, name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from export.folder import export_folder

    readme = tmp_path_factory.mktemp("card") / "card.md"
    readme.write_text("# Random weights\n")
    return export_folder(checkpoint, tmp_path_factory.mktemp("models") / name, name=name, readme=readme).path


@pytest.fixture(scope="session")
def random_generators(random_mnist_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a generator of each kind with random weights, for the codes of ``random_mnist_folder``."""
    from click.testing import CliRunner

    from daps_tokenizer.hub import open_model
    from export.__main__ import main
    from tests.generators import random_generator_checkpoint

    checkpoints, folders = tmp_path_factory.mktemp("checkpoints"), tmp_path_factory.mktemp("generators")
    made = {}
    for kind in ("flow", "causal"):
        checkpoint = random_generator_checkpoint(kind, open_model(random_mnist_folder), checkpoints / kind)
        made[kind] = folders / f"random-{kind}"
        result = CliRunner().invoke(main, ["generator", str(checkpoint), str(made[kind])])
        assert result.exit_code == 0 and f"{made[kind]}/generator.onnx" in result.output, result.output
    return made


@pytest.fixture(scope="session")
def random_text_generator(random_motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a generator of motion with random weights, for the codes of ``random_motion_folder``."""
    from daps_tokenizer.hub import open_model
    from export.generator import export_generator
    from tests.generators import random_generator_checkpoint

    checkpoint = tmp_path_factory.mktemp("checkpoint") / "text"
    random_generator_checkpoint("causal", open_model(random_motion_folder), checkpoint, of_motion=True)
    return export_generator(checkpoint, tmp_path_factory.mktemp("generators") / "random-text").path
