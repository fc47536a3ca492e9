"""Every test of the command line runs in a folder of its own, with a digit in it."""

import shutil
from pathlib import Path

import pytest

from daps_tokenizer import Tokenizer
from daps_tokenizer import hub as hub_module
from tests.cli.helpers import digit


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: it has a digit.png."""
    monkeypatch.chdir(tmp_path)
    digit().save("digit.png")
    return tmp_path


@pytest.fixture
def model(random_mnist_folder: Path) -> str:
    return str(random_mnist_folder)


@pytest.fixture
def built_in(
    random_mnist_folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The name of the only built-in model."""
    folder = tmp_path_factory.mktemp("pretrained")
    shutil.copytree(random_mnist_folder, folder / "random-mnist")
    monkeypatch.setattr(hub_module, "_BUILT_IN_FOLDER", folder)
    return "random-mnist"


@pytest.fixture
def tok(model: str) -> Tokenizer:
    return Tokenizer.from_pretrained(model)


@pytest.fixture
def images(workplace: Path) -> Path:
    """A folder of five digits."""
    folder = workplace / "images"
    folder.mkdir()
    for seed in range(5):
        digit(seed).save(folder / f"{seed}.png")
    return folder
