"""A server that lies, dawdles or sends too much, and folders with links: refused in one line, and nothing leaks."""

import dataclasses
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daps_tokenizer import hub_transfer
from daps_tokenizer.errors import ConfigError, HubError, ModelFileError
from daps_tokenizer.hub import ModelFolder, copy_folder, open_model
from tests.hub.helpers import CONFIG, MODEL, Call, contents, files_on, write_folder
from tests.hub.hub_server import LocalHub


def open_with_limits(limits: dict[str, float], name: str, **options: Any) -> ModelFolder:
    """open_model with shorter limits, in the process of the client."""
    usual = {limit: getattr(hub_transfer, limit) for limit in limits}
    for limit, value in limits.items():
        setattr(hub_transfer, limit, value)
    try:
        return open_model(name, **options)
    finally:
        for limit, value in usual.items():
            setattr(hub_transfer, limit, value)


@pytest.fixture
def download_within(client: Call, cache: Path) -> Call:
    return lambda **limits: client(open_with_limits, limits, "org/tiny", cache_dir=cache)


def test_a_silent_server_is_given_up(hub: LocalHub, download_within: Call) -> None:
    hub.is_silent.set()
    with pytest.raises(HubError, match=r"^org/tiny: the server sent nothing for 1 seconds; try again later$"):
        download_within(SILENT_SECONDS=1.0)


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(hub: LocalHub, download_within: Call) -> None:
    hub.seconds_per_byte = 0.05
    with pytest.raises(HubError, match=r"^org/tiny: the server sent less than 16 KiB a second; try again later$"):
        download_within(FIRST_SECONDS=1.0)


@pytest.mark.parametrize("name", ["ETag", "X-Linked-Etag"])
def test_an_etag_that_is_a_path_is_refused(hub: LocalHub, download: Call, cache: Path, name: str) -> None:
    hub.headers[name] = '"../../../../evil"'
    with pytest.raises(HubError, match=r"org/tiny: the server sent the ETag .*evil.*; expected hashes"):
        download()
    assert not list(cache.parent.rglob("*evil*"))


def test_a_commit_that_is_a_path_is_refused(hub: LocalHub, download: Call, cache: Path) -> None:
    hub.headers["X-Repo-Commit"] = "../../../evil"
    with pytest.raises(HubError, match=r"org/tiny: the server sent the ETag .* and commit '\.\./\.\./\.\./evil'"):
        download()
    assert not list(cache.parent.rglob("*evil*"))


def test_a_file_that_is_too_large_is_not_fetched(hub: LocalHub, download_within: Call) -> None:
    with pytest.raises(HubError, match=r"org/tiny: the server offers '\d+' bytes; expected at most 100"):
        download_within(MOST_BYTES=100)
    assert hub.downloads == []


def test_a_compressed_answer_that_unpacks_to_too_much_is_given_up(hub: LocalHub, download_within: Call) -> None:
    with hub.changing("config.json", lambda content: gzip.compress(bytes(10_000_000))):
        hub.headers["Content-Encoding"] = "gzip"
        with pytest.raises(HubError, match=r"org/tiny: the server sent more than 100,000 bytes"):
            download_within(MOST_BYTES=100_000)


def test_a_config_that_lists_more_files_than_a_model_has_is_refused(hub: LocalHub, download: Call) -> None:
    config = dataclasses.replace(CONFIG, files={f"onnx/{number}.onnx": "0" * 64 for number in range(101)})
    hub.commit("org/tiny", {**MODEL, "config.json": config.to_json().encode()})
    with pytest.raises(ModelFileError, match=r"config\.json lists 101 files; expected at most 100"):
        download()
    assert hub.downloads == ["config.json"]


def test_a_name_in_config_that_is_a_path_is_refused(folder: Path) -> None:
    write_folder(folder, {"config.json": MODEL["config.json"].replace(b'"cifar10"', b'"../../evil"')})
    with pytest.raises(ConfigError, match=r"name must be up to 100 letters, digits, .* not '\.\./\.\./evil'"):
        open_model(folder)


# Links


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key.txt").write_text("the secret")
    return tmp_path / "private" / "key.txt"


def link_the_readme(folder: Path, secret: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(secret)


def link_a_graph(folder: Path, secret: Path) -> None:
    (folder / "onnx" / "encoder.onnx").rename(secret)
    (folder / "onnx" / "encoder.onnx").symlink_to(secret)


def link_the_graphs(folder: Path, secret: Path) -> None:
    (folder / "onnx").rename(secret.parent / "onnx")
    (folder / "onnx").symlink_to(secret.parent / "onnx")


@pytest.mark.parametrize("link", [link_the_readme, link_a_graph, link_the_graphs])
def test_a_link_out_of_the_folder_is_neither_copied_nor_pushed(
    hub: LocalHub, push: Call, folder: Path, tmp_path: Path, secret: Path, link: Callable[[Path, Path], None]
) -> None:
    link(folder, secret)
    expected = "is not a regular file inside the model's folder; expected the file itself in place of the link"
    with pytest.raises(ModelFileError, match=expected):
        copy_folder(open_model(folder), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    with pytest.raises(ModelFileError, match=expected):
        push("org/new")
    assert hub.requests == []


def test_a_file_in_a_subfolder_that_config_does_not_list_is_not_pushed(hub: LocalHub, push: Call, folder: Path) -> None:
    write_folder(folder, {"onnx/private/notes.onnx": b"the secret"})
    push("org/new")
    assert set(files_on(hub, "org/new")) == {".gitattributes", *MODEL}


def test_a_model_in_the_hubs_cache_which_is_links_is_copied(hub: LocalHub, download: Call, tmp_path: Path) -> None:
    model = download()
    assert (model.path / "README.md").is_symlink()
    copy = copy_folder(model, tmp_path / "copy")
    assert contents(open_model(copy)) == contents(model) and not (copy / "README.md").is_symlink()
