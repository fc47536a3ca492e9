"""Where models come from, without a network: the package and folders."""

import dataclasses
import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from daps_tokenizer.errors import ConfigError, DapsError, ModelFileError, ModelNotFoundError, OutputExistsError
from daps_tokenizer.hub import ModelFolder, built_in_models, copy_folder, open_model
from tests.hub.helpers import CONFIG, FILES, MODEL, flip_a_bit, write_folder

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


def test_a_file_is_no_folder_and_not_looked_up_on_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ModelNotFoundError, match=r"tiny/config\.json is not a folder; expected a model folder"):
        open_model("tiny/config.json")


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
    (folder / "config.json").rmdir()
    os.mkfifo(folder / "config.json")  # which would be waited for
    with pytest.raises(ModelFileError, match=r"tiny/config\.json cannot be read \(not a regular file\)"):
        open_model(folder)


def test_a_missing_graph_says_how_to_export_it(folder: Path) -> None:
    with pytest.raises(ModelFileError, match=r"tiny has no onnx/scorer\.onnx; export it with `python -m export onnx`"):
        open_model(folder).file("onnx/scorer.onnx")


def test_a_damaged_file_is_not_handed_out(folder: Path) -> None:
    write_folder(folder, {"onnx/encoder.onnx": flip_a_bit(FILES["onnx/encoder.onnx"])})
    with pytest.raises(ModelFileError, match=r"onnx/encoder\.onnx is damaged, .*; copy it anew or export it again"):
        open_model(folder).file("onnx/encoder.onnx")


def test_a_file_is_checked_once_and_again_after_it_was_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model(folder)
    path = model.file("onnx/encoder.onnx")
    with monkeypatch.context() as patch:
        patch.delattr(hashlib, "file_digest")
        assert model.file("onnx/encoder.onnx") == path
    before = path.stat().st_mtime_ns
    path.write_bytes(flip_a_bit(FILES["onnx/encoder.onnx"]))
    os.utime(path, ns=(before, before + 1_000_000))  # clocks of file systems are coarse
    with pytest.raises(ModelFileError, match=r"onnx/encoder\.onnx is damaged"):
        model.file("onnx/encoder.onnx")


def test_a_damaged_built_in_file_asks_to_install_again(built_in: Path) -> None:
    write_folder(built_in, {"onnx/encoder.onnx": b""})
    with pytest.raises(
        ModelFileError, match=r"onnx/encoder\.onnx is damaged, .*; install daps-tokenizer again with pip"
    ):
        open_model("daps-cifar10").file("onnx/encoder.onnx")


def test_a_file_that_the_config_does_not_list_is_not_handed_out(folder: Path) -> None:
    write_folder(folder, {"onnx/scorer.onnx": b"scorer"})
    with pytest.raises(ModelFileError, match=r"onnx/scorer\.onnx has no sha256 in config\.json"):
        open_model(folder).file("onnx/scorer.onnx")


@pytest.mark.parametrize("outside", ["../secret", "onnx/../../secret", "/etc/passwd"])
def test_a_config_that_lists_files_outside_the_folder_is_refused(folder: Path, outside: str) -> None:
    config = dataclasses.replace(CONFIG, files={outside: "0" * 64})
    write_folder(folder, {"config.json": config.to_json().encode()})
    with pytest.raises(ModelFileError, match=f"config.json lists '{outside}', which is not the name of a file inside"):
        open_model(folder)


def test_only_a_model_on_the_hub_has_revisions(folder: Path, built_in: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="tiny is a folder and has no revision 'v1'"):
        open_model(folder, revision="v1")
    with pytest.raises(ModelNotFoundError, match="daps-mnist is built in and has no revision 'v1'"):
        open_model("daps-mnist", revision="v1")


# A copy


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_has_the_files_of_the_model_and_leaves_no_other(folder: Path, tmp_path: Path) -> None:
    write_folder(folder, {"notes.txt": b"not of the model"})
    others = write_folder(tmp_path / "out" / ".copy.partial", {"mine.txt": b"of someone else"})
    target = tmp_path / "out" / "copy"
    assert copy_folder(open_model(folder), target) == target
    assert content_of(target) == MODEL
    assert sorted(target.parent.iterdir()) == [others, target] and content_of(others) == {
        "mine.txt": b"of someone else"
    }
    with pytest.raises(OutputExistsError, match=r"copy: already exists; give the name of a new folder"):
        copy_folder(open_model(folder), target)


def test_an_empty_folder_is_filled_even_the_one_that_is_worked_in(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    copy_folder(open_model(folder), Path())
    assert content_of(here) == content_of(Path.cwd()) == MODEL and not list(here.glob(".*"))


@pytest.mark.parametrize("name", ["walk.csv/copy", "a\0b", "n" * 300, "/proc/copy"])
def test_a_copy_that_cannot_be_written_is_named_in_one_line(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "walk.csv").touch()
    with pytest.raises(DapsError, match=r"cannot be written .*; give the name of a new folder") as caught:
        copy_folder(open_model(folder), tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_copy_that_fails_half_way_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    out = tmp_path / "out"
    out.mkdir()
    for target in (out / "copy", out):
        with pytest.raises(DapsError, match=r"cannot be written \(No space left on device\)"):
            copy_folder(open_model(folder), target)
        assert not list(out.iterdir())
