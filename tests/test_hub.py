"""Where models come from. The Hub is the one in hub_server.py, and the client is the real one, in its own process:
HF_ENDPOINT is read when huggingface_hub is first imported, so it has to be in the environment before, as with a user.
"""

import dataclasses
import hashlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from daps_tokenizer import hub as hub_module
from daps_tokenizer.errors import ConfigError, DapsError, HubError, ModelFileError, ModelNotFoundError
from daps_tokenizer.hub import ModelFolder, built_in_models, open_model, push_folder
from tests.hub_server import TOKEN, LocalHub
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
def hub(server: LocalHub) -> LocalHub:
    """The Hub with one model on it, org/tiny."""
    server.repositories.clear()
    server.storage.clear()
    server.commit("org/tiny", MODEL)
    server.requests.clear()
    server.downloads.clear()
    return server


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


# Built in


def test_built_in_models_are_the_folders_with_a_config_by_name(built_in: Path) -> None:
    assert list(built_in_models()) == ["daps-cifar10", "daps-mnist"]
    assert built_in_models()["daps-cifar10"] == built_in


def test_every_model_that_comes_with_the_package_is_whole() -> None:
    for name in built_in_models():
        model = open_model(name)
        assert all(model.file(listed).is_file() for listed in model.config.files)


def test_a_built_in_name_opens_the_models_folder_in_the_package(built_in: Path) -> None:
    assert open_model("daps-cifar10") == ModelFolder(built_in, CONFIG, "built-in")


@pytest.mark.parametrize("typo", ["daps-cifar", "Daps-CIFAR10", "daps_cifar10"])
def test_a_name_with_a_typo_gets_the_right_name_and_all_accepted_forms(built_in: Path, typo: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"'{typo}'; did you mean 'daps-cifar10'") as caught:
        open_model(typo)
    assert "(daps-cifar10, daps-mnist), a folder ('./folder') or 'org/name'" in str(caught.value)


@pytest.mark.parametrize("name", ["", "nothing-like-it", "a/b/c", "a" * 5000])
def test_a_name_of_no_accepted_form_is_not_looked_for_on_the_hub(built_in: Path, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"expected a built-in model .* or 'org/name' on the Hub"):
        open_model(name)


# A folder


def test_a_folder_is_opened_as_path_or_as_text_with_a_separator(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    relative = f"{folder.parent.name}/{folder.name}"
    for name in (folder, Path(relative), str(folder), relative, f"./{relative}"):
        assert open_model(name).file("onnx/encoder.onnx").read_bytes() == FILES["onnx/encoder.onnx"]


def test_a_built_in_name_wins_over_a_folder_of_that_name_here(built_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built_in.parent)
    assert open_model("daps-cifar10").origin == "built-in"
    assert open_model("./daps-cifar10").origin == "folder"


def test_a_bare_folder_name_is_told_to_say_that_it_is_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ModelNotFoundError, match=r"did you mean './tiny'"):
        open_model("tiny")


@pytest.mark.parametrize("missing", [Path("no/such"), "./no/such", "/no/such"])
def test_a_path_that_does_not_exist_is_named(missing: str | Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no/such is not a folder; expected a model folder"):
        open_model(missing)


def test_a_folder_without_config_is_not_a_model(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"tiny is not a model folder: it has no config\.json"):
        open_model(folder)


@pytest.mark.parametrize("text", [b"{}", b"[", b"\xff\xfe", MODEL["config.json"].replace(b'"name"', b'"nome"')])
def test_a_broken_config_is_a_config_error_that_names_the_file(folder: Path, text: bytes) -> None:
    (folder / "config.json").write_bytes(text)
    with pytest.raises(ConfigError, match=r"tiny/config\.json: "):
        open_model(folder)


def test_a_config_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(ModelFileError, match=r"tiny/config\.json cannot be read \(Is a directory\)"):
        open_model(folder)


def test_a_missing_graph_says_how_to_export_it(folder: Path) -> None:
    with pytest.raises(ModelFileError, match=r"tiny has no onnx/scorer\.onnx; export it with `python -m export onnx`"):
        open_model(folder).file("onnx/scorer.onnx")


def test_a_damaged_file_is_not_handed_out(folder: Path) -> None:
    write_folder(folder, {"onnx/encoder.onnx": flip_a_bit(FILES["onnx/encoder.onnx"])})
    with pytest.raises(ModelFileError, match=r"onnx/encoder\.onnx is damaged, .*; copy it anew or export it again"):
        open_model(folder).file("onnx/encoder.onnx")


def test_a_damaged_built_in_file_asks_to_install_again(built_in: Path) -> None:
    write_folder(built_in, {"onnx/encoder.onnx": b""})
    with pytest.raises(ModelFileError, match=r"onnx/encoder\.onnx is damaged, .*; install daps-tokenizer again"):
        open_model("daps-cifar10").file("onnx/encoder.onnx")


def test_a_file_that_the_config_does_not_list_is_not_handed_out(folder: Path) -> None:
    write_folder(folder, {"onnx/scorer.onnx": b"scorer"})
    with pytest.raises(ModelFileError, match=r"onnx/scorer\.onnx has no sha256 in config\.json"):
        open_model(folder).file("onnx/scorer.onnx")


@pytest.mark.parametrize("outside", ["../secret", "onnx/../../secret", "/etc/passwd"])
def test_a_config_that_lists_files_outside_the_folder_is_refused(folder: Path, outside: str) -> None:
    config = dataclasses.replace(CONFIG, files={outside: "0" * 64})
    write_folder(folder, {"config.json": config.to_json().encode()})
    with pytest.raises(ModelFileError, match=f"config.json lists '{outside}', which is not inside the folder"):
        open_model(folder)


def test_only_a_model_on_the_hub_has_revisions(folder: Path, built_in: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="tiny is a folder and has no revision 'v1'"):
        open_model(folder, revision="v1")
    with pytest.raises(ModelNotFoundError, match="daps-mnist is built in and has no revision 'v1'"):
        open_model("daps-mnist", revision="v1")


# The Hub: download and cache


def test_a_model_on_the_hub_is_downloaded(hub: LocalHub, download: Call) -> None:
    model = download()
    assert model.config == CONFIG
    assert model.origin == "hub"
    assert contents(model) == FILES


def test_only_files_of_the_model_are_downloaded(hub: LocalHub, download: Call) -> None:
    hub.commit("org/tiny", {**MODEL, "training/checkpoint.safetensors": b"large", "demo.gif": b"large"})
    download()
    assert sorted(hub.downloads) == sorted(MODEL)


def test_a_second_opening_downloads_nothing(hub: LocalHub, download: Call) -> None:
    first = download()
    hub.downloads.clear()
    assert download() == first
    assert hub.downloads == []


def test_a_new_commit_downloads_only_what_changed(hub: LocalHub, download: Call) -> None:
    download()
    hub.downloads.clear()
    hub.commit("org/tiny", {**MODEL, "README.md": b"# Tiny, explained\n"})
    download()
    assert hub.downloads == ["README.md"]


def test_a_cached_model_opens_while_the_hub_is_down(hub: LocalHub, download: Call) -> None:
    downloaded = download()
    with hub.down():
        assert download(local_files_only=True) == downloaded
        assert download() == downloaded


def test_local_files_only_asks_the_hub_nothing(hub: LocalHub, download: Call) -> None:
    download()
    hub.requests.clear()
    download(local_files_only=True)
    assert hub.requests == []


def test_hf_hub_offline_opens_what_is_cached_and_nothing_else(
    hub: LocalHub, download: Call, cache: Path, folder: Path
) -> None:
    downloaded = download()
    hub.requests.clear()
    with client_process(hub.url, cache / "home", HF_HUB_OFFLINE="1") as offline:
        assert offline(open_model, "org/tiny", cache_dir=cache) == downloaded
        with pytest.raises(HubError, match=r"org/other: no complete copy is cached and .*HF_HUB_OFFLINE=1 forbids"):
            offline(open_model, "org/other", cache_dir=cache)
        with pytest.raises(HubError, match=r"org/tiny: the transfer failed \(OfflineModeIsEnabled"):
            offline(push_folder, folder, "org/tiny")
    assert hub.requests == []


def test_a_revision_is_a_tag_a_branch_or_a_commit(hub: LocalHub, download: Call) -> None:
    old = hub.commit("org/tiny", {**MODEL, "README.md": b"old"})
    hub.tag("org/tiny", "v1", old)
    hub.commit("org/tiny", {**MODEL, "README.md": b"new"})
    hub.commit("org/tiny", {**MODEL, "README.md": b"bold"}, branch="feature/bold")
    for revision, readme in {None: "new", "v1": "old", old: "old", "feature/bold": "bold", "main": "new"}.items():
        model = download(revision=revision)
        assert (model.path / "README.md").read_text() == readme


def test_a_revision_that_does_not_exist_is_named(hub: LocalHub, download: Call) -> None:
    for revision in ("v7", "0" * 40):
        with pytest.raises(ModelNotFoundError, match=f"org/tiny has no revision '{revision}' .* a tag or a commit"):
            download(revision=revision)


# The Hub: what is missing, or not for everybody


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_repository_that_does_not_exist_is_named(hub: LocalHub, download: Call, token: str | None) -> None:
    with pytest.raises(ModelNotFoundError, match="org/none is neither a folder here nor a model on the Hub; if it is"):
        download("org/none", token=token)


@pytest.mark.parametrize("name", ["org/na me", "org--x/y", "org/", "org/" + "a" * 5000])
def test_a_name_that_the_hub_does_not_allow_says_which_ones_are(hub: LocalHub, download: Call, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"'{name}' is not a repository on the Hub; expected 'org/name'"):
        download(name)


def test_a_private_model_needs_the_token(hub: LocalHub, download: Call) -> None:
    hub.repositories["org/tiny"].private = True
    with pytest.raises(ModelNotFoundError, match=r"org/tiny .* if it is private or gated, pass token="):
        download()
    assert contents(download(token=TOKEN)) == FILES


def test_a_gated_model_needs_the_token(hub: LocalHub, download: Call) -> None:
    hub.repositories["org/tiny"].gated = True
    with pytest.raises(
        ModelNotFoundError, match="org/tiny is gated on the Hub; ask for access there, then pass token="
    ):
        download()
    assert contents(download(token=TOKEN)) == FILES


def test_a_token_that_the_hub_does_not_know_is_refused(hub: LocalHub, download: Call) -> None:
    with pytest.raises(ModelNotFoundError, match=r"org/tiny: the Hub answered 401 \(Invalid cred.*\); pass token="):
        download(token="hf_wrong")


def test_a_repository_without_config_is_not_a_model(hub: LocalHub, download: Call) -> None:
    hub.commit("org/other", {"pytorch_model.bin": b"not ours"})
    with pytest.raises(ModelNotFoundError, match=r"models--org--other.* is not a model folder: it has no config\.json"):
        download("org/other")


def test_a_repository_without_a_graph_opens_until_the_graph_is_asked_for(hub: LocalHub, download: Call) -> None:
    hub.commit("org/tiny", {name: content for name, content in MODEL.items() if name != "onnx/encoder.onnx"})
    model = download()
    assert model.file("onnx/decoder.onnx").is_file()
    with pytest.raises(ModelFileError, match=r"has no onnx/encoder\.onnx; export it with `python -m export onnx`"):
        model.file("onnx/encoder.onnx")


# The Hub: when something breaks


def test_no_network_and_nothing_cached(hub: LocalHub, download: Call) -> None:
    with (
        hub.down(),
        pytest.raises(HubError, match=r"org/tiny: no complete copy is cached and there is no network \(ConnectError"),
    ):
        download()
    with pytest.raises(HubError, match=r"org/tiny: no complete copy is cached and local_files_only=True .* forbids"):
        download(local_files_only=True)


def test_a_hub_that_is_out_of_order_and_nothing_cached(hub: LocalHub, download: Call) -> None:
    with (
        hub.failing(HTTPStatus.INTERNAL_SERVER_ERROR),
        pytest.raises(HubError, match=r"org/tiny: no complete copy is cached and the Hub answered 500 \(Internal"),
    ):
        download()


def test_a_download_with_flipped_bits_is_refused_and_can_be_repeated(hub: LocalHub, download: Call) -> None:
    with hub.changing("onnx/encoder.onnx", flip_a_bit):
        damaged = download()
    with pytest.raises(ModelFileError, match=r"onnx/encoder\.onnx is damaged, .*; delete .* and open the") as caught:
        damaged.file("onnx/encoder.onnx")

    to_delete = Path(str(caught.value).split("delete ")[1].split(" and open")[0])
    to_delete.unlink()  # what the message asks for
    assert contents(download()) == FILES


def test_a_download_that_is_too_short_is_refused_and_can_be_repeated(hub: LocalHub, download: Call) -> None:
    with (
        hub.changing("onnx/encoder.onnx", lambda content: content[:100]),
        pytest.raises(HubError, match=r"org/tiny: the transfer failed \(OSError: Consistency .*file\.\); try again"),
    ):
        download()
    assert contents(download()) == FILES


def test_a_half_finished_download_is_not_used_offline(hub: LocalHub, download: Call) -> None:
    with hub.changing("onnx/encoder.onnx", lambda content: content[:100]), pytest.raises(HubError):
        download()
    with pytest.raises((HubError, ModelFileError)):  # client 2.x knows what is missing, 1.0 does not
        download(local_files_only=True).file("onnx/encoder.onnx")


def test_after_a_broken_connection_the_download_is_whole(hub: LocalHub, download: Call) -> None:
    hub.drop_connection_once("onnx/encoder.onnx")
    with suppress(HubError):  # client 1.0 gives up, 2.x resumes
        download()
    assert contents(download()) == FILES


# Pushing


def test_what_was_pushed_can_be_opened_with_the_same_bytes(hub: LocalHub, download: Call, push: Call) -> None:
    url = push("org/new")
    model = download("org/new")
    assert url == f"{hub.url}/org/new/commit/{model.path.name}"
    assert {name: (model.path / name).read_bytes() for name in MODEL} == MODEL


def test_only_files_of_the_model_are_pushed(hub: LocalHub, push: Call, folder: Path) -> None:
    write_folder(folder, {"notes.txt": b"private", "onnx/encoder.onnx.tmp": b"half"})
    push("org/new")
    assert set(files_on(hub, "org/new")) == {".gitattributes", *MODEL}


def test_graphs_that_the_new_version_does_not_have_are_removed(hub: LocalHub, push: Call) -> None:
    hub.commit("org/tiny", {**MODEL, "onnx/old.onnx": b"old", "picture.png": b"kept"})
    push("org/tiny")
    assert set(files_on(hub, "org/tiny")) == {"picture.png", *MODEL}


def test_pushing_the_same_again_makes_no_new_commit(hub: LocalHub, push: Call) -> None:
    before = hub.repositories["org/tiny"].refs["main"]
    assert push("org/tiny").endswith(f"/commit/{before}")


def test_a_push_can_go_to_a_branch_that_does_not_exist_yet(hub: LocalHub, push: Call) -> None:
    push("org/new", revision="v2")
    assert set(files_on(hub, "org/new", "main")) == {".gitattributes"}
    assert set(files_on(hub, "org/new", "v2")) == {".gitattributes", *MODEL}


def test_a_push_carries_its_commit_message(hub: LocalHub, push: Call) -> None:
    push("org/new", commit_message="Second version")
    assert hub.repositories["org/new"].messages == ["initial commit", "Second version"]


def test_a_repository_is_private_when_it_is_pushed_as_private(hub: LocalHub, push: Call) -> None:
    push("org/new", private=True)
    assert hub.repositories["org/new"].private


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        ({"onnx/encoder.onnx": b"damaged"}, ModelFileError, r"onnx/encoder\.onnx is damaged"),
        ({"onnx/scorer.onnx": b"unlisted"}, ModelFileError, r"onnx/scorer\.onnx has no sha256 in config\.json"),
        ({"config.json": b"{}"}, ConfigError, r"config\.json: key 'generative' is missing"),
    ],
)
def test_a_damaged_folder_is_not_pushed(
    hub: LocalHub, push: Call, folder: Path, damage: dict[str, bytes], error: type[DapsError], message: str
) -> None:
    write_folder(folder, damage)
    with pytest.raises(error, match=message):
        push("org/new")
    assert hub.requests == []


def test_a_folder_with_a_missing_file_is_not_pushed(hub: LocalHub, push: Call, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"tiny has no model\.safetensors"):
        push("org/new")
    assert hub.requests == []


def test_a_push_without_a_token_is_refused(hub: LocalHub, push: Call) -> None:
    with pytest.raises(ModelNotFoundError, match=r"org/new: .*pass token=\.\.\."):
        push("org/new", token=None)
    assert "org/new" not in hub.repositories


@pytest.mark.parametrize("repo_id", ["tiny", "a/b/c", "org/na me"])
def test_a_push_needs_an_organisation_and_a_name(hub: LocalHub, push: Call, repo_id: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"'{repo_id}' is not a repository on the Hub; expected 'org/name'"):
        push(repo_id)


def test_a_push_without_network_says_so(hub: LocalHub, push: Call) -> None:
    with hub.down(), pytest.raises(HubError, match=r"org/new: the transfer failed \(ConnectError"):
        push("org/new")


def test_a_push_that_the_hub_forbids_says_so(hub: LocalHub, push: Call) -> None:
    with hub.failing(HTTPStatus.FORBIDDEN), pytest.raises(HubError, match=r"org/new: the Hub answered 403 \(Forbidden"):
        push("org/new")


def flip_a_bit(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


def contents(model: ModelFolder) -> dict[str, bytes]:
    return {name: model.file(name).read_bytes() for name in FILES}


def files_on(hub: LocalHub, repo_id: str, branch: str = "main") -> dict[str, bytes]:
    repository = hub.repositories[repo_id]
    return repository.commits[repository.refs[branch]]
