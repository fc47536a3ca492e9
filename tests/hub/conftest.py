"""A Hub on this machine with one model on it, and what tests do with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from daps_tokenizer import hub as hub_module
from daps_tokenizer.hub import open_model, push_folder
from tests.hub.helpers import MODEL, Call, client_process, write_folder
from tests.hub.hub_server import TOKEN, LocalHub


@pytest.fixture(scope="module")
def server() -> Iterator[LocalHub]:
    server = LocalHub()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(server: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    with client_process(server.url, tmp_path_factory.mktemp("home")) as call:
        yield call


@pytest.fixture
def hub(server: LocalHub) -> Iterator[LocalHub]:
    """The Hub with one model on it, org/tiny."""
    server.repositories.clear()
    server.storage.clear()
    server.commit("org/tiny", MODEL)
    server.requests.clear()
    server.downloads.clear()
    yield server
    server.headers.clear()
    server.seconds_per_byte = None
    server.is_silent.clear()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def download(client: Call, cache: Path) -> Call:
    """open_model for a model on the Hub, with a cache that is empty at first."""
    return lambda name="org/tiny", **options: client(open_model, name, cache_dir=cache, **options)


@pytest.fixture
def push(client: Call, folder: Path) -> Call:
    """push_folder for the folder of the test."""
    return lambda repo_id, **options: client(push_folder, folder, repo_id, **{"token": TOKEN, **options})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "tiny", MODEL)


@pytest.fixture
def built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that comes with daps-cifar10 and daps-mnist."""
    monkeypatch.setattr(hub_module, "_BUILT_IN_FOLDER", tmp_path / "pretrained")
    write_folder(tmp_path / "pretrained" / "notes", {"README.md": b"not a model"})
    write_folder(tmp_path / "pretrained" / "daps-mnist", MODEL)
    return write_folder(tmp_path / "pretrained" / "daps-cifar10", MODEL)
