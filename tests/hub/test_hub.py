"""Models from the Hub and to it: a real client against the Hub of hub_server.py."""

from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from daps_tokenizer import Tokenizer
from daps_tokenizer.errors import ConfigError, DapsError, HubError, ModelFileError, ModelNotFoundError
from daps_tokenizer.hub import built_in_generators, open_generator, open_model, push_folder
from tests.cli.helpers import ENVIRONMENT, on_terminal
from tests.hub.helpers import CONFIG, FILES, MODEL, Call, client_process, contents, files_on, flip_a_bit, write_folder
from tests.hub.hub_server import TOKEN, LocalHub

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


def test_progress_is_shown_where_something_is_fetched_and_nowhere_else(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    for name, value in client.items():
        monkeypatch.setitem(ENVIRONMENT, name, value)
    code, shown, _ = on_terminal(["info", "org/tiny"], stream="stderr")
    assert code == 0 and all(f"{name}: 100%" in shown for name in MODEL)
    code, shown, _ = on_terminal(["info", "org/tiny"], stream="stderr")
    assert code == 0 and shown == ""


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


@pytest.mark.parametrize("name", ["org/na me", "org--x/y", "org/", "org/" + "a" * 200])
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
    with pytest.raises(ModelNotFoundError, match=r"org/other is not a model: it has no config\.json on the Hub"):
        download("org/other")


def test_a_repository_without_a_graph_opens_until_the_graph_is_asked_for(hub: LocalHub, download: Call) -> None:
    hub.commit("org/tiny", {name: content for name, content in MODEL.items() if name != "onnx/encoder.onnx"})
    model = download()
    assert model.file("onnx/decoder.onnx").is_file()
    with pytest.raises(ModelFileError, match=r"has no onnx/encoder\.onnx; export it with `python -m export onnx`"):
        model.file("onnx/encoder.onnx")


# The Hub: when something breaks


def test_no_network_and_nothing_cached(hub: LocalHub, download: Call) -> None:
    said = r"no complete copy is cached and there is no network \(ConnectError"
    old = r"the transfer failed \(RuntimeError: Cannot send a request"  # of 1.2, which asks again by a closed client
    with hub.down(), pytest.raises(HubError, match=f"org/tiny: ({said}|{old})"):
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


def push_a_tokenizer(folder: Path, repo_id: str, **options: Any) -> str:
    return Tokenizer.from_pretrained(folder, backend="onnx", device="cpu").push_to_hub(repo_id, **options)


def test_a_tokenizer_pushes_its_own_files_as_it_is_told(hub: LocalHub, client: Call, folder: Path) -> None:
    options = {"token": TOKEN, "revision": "v2", "private": True, "commit_message": "Second version"}
    url = client(push_a_tokenizer, folder, "org/new", **options)
    assert url == f"{hub.url}/org/new/commit/{hub.repositories['org/new'].refs['v2']}"
    pushed = files_on(hub, "org/new", "v2")
    assert {name: pushed[name] for name in MODEL} == MODEL
    assert hub.repositories["org/new"].private and "Second version" in hub.repositories["org/new"].messages


def test_a_generator_is_pushed_and_opened_again(hub: LocalHub, client: Call, cache: Path) -> None:
    folder = open_generator(built_in_generators()["daps-mnist-flow"])
    client(push_folder, folder.path, "org/flow", token=TOKEN)
    opened = client(open_generator, "org/flow", cache_dir=cache)
    assert opened.config == folder.config and opened.origin == "hub"
    assert opened.file("generator.onnx").read_bytes() == folder.file("generator.onnx").read_bytes()


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
