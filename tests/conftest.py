"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from daps_tokenizer.model.autoencoder import Autoencoder, save_weights
from tests.settings import MNIST


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors are faster on one thread, several times so where other programs use the cores too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def random_mnist_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as training writes it, of the MNIST setting with random weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    save_weights(Autoencoder(MNIST), folder / "model.safetensors")
    (folder / "config.json").write_text(MNIST.to_json())
    (folder / "training.json").write_text('{"steps": 0}')
    return folder


@pytest.fixture(scope="session")
def random_mnist_folder(random_mnist_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported model folder of that checkpoint, named ``random-mnist``."""
    from export.folder import export_folder

    readme = tmp_path_factory.mktemp("card") / "card.md"
    readme.write_text("# Random weights\n")
    out = tmp_path_factory.mktemp("models") / "random-mnist"
    return export_folder(random_mnist_checkpoint, out, name="random-mnist", readme=readme).path
