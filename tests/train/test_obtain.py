"""`python -m train data`: datasets as their publishers have them become the files that training reads."""

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from daps_tokenizer.data.datasets import read_cifar10, read_mnist
from daps_tokenizer.errors import InputError
from train import obtain as module
from train.__main__ import main
from train.motion import load_clips
from train.obtain import FILES, obtain


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["data", *arguments])
    return result.exit_code, result.output


@pytest.fixture
def keras_archive(tmp_path: Path) -> Path:
    arrays = {f"x_{split}": np.full((3, 28, 28), 7, np.uint8) for split in ("train", "test")}
    arrays |= {f"y_{split}": np.arange(3, dtype=np.uint8) for split in ("train", "test")}
    path = tmp_path / "downloaded.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.fixture
def binary_cifar10(tmp_path: Path) -> Path:
    """As the authors' archive, with 1,000 flat colours in each of its six files."""
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for number, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
            records = np.zeros((1000, 3073), np.uint8)
            records[:, 0] = np.arange(1000) % 10
            records[:, 1:1025] = number  # red
            records[:, 1025:2049] = (np.arange(1000) % 250)[:, None]  # green
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = records.nbytes
            tar.addfile(member, io.BytesIO(records.tobytes()))
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the files in tmp_path."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_mnist_is_copied_and_can_be_read(keras_archive: Path, tmp_path: Path) -> None:
    code, output = run("mnist", "--source", str(keras_archive), "--data", str(tmp_path / "data"))
    assert (code, output.strip()) == (0, str(tmp_path / "data" / "mnist.npz"))
    images, labels = read_mnist(tmp_path / "data" / "mnist.npz", "train")
    assert images.shape == (3, 28, 28, 1) and labels.tolist() == [0, 1, 2]


def test_cifar10_becomes_mosaics_with_every_pixel_and_label_in_its_place(binary_cifar10: Path, tmp_path: Path) -> None:
    assert obtain("cifar10", tmp_path / "data", binary_cifar10) == tmp_path / "data" / "cifar10"
    images, labels = read_cifar10(tmp_path / "data" / "cifar10", "train")
    assert images.shape == (5000, 32, 32, 3) and labels[1234] == 4
    assert (images[1234] == [1, 234, 0]).all()  # of the second file, red first
    assert len(read_cifar10(tmp_path / "data" / "cifar10", "test")[0]) == 1000
    assert list((tmp_path / "data").iterdir()) == [tmp_path / "data" / "cifar10"]


def test_motion_is_made_of_a_folder_of_clips(tmp_path: Path) -> None:
    for folder, columns in (("h1", 26), ("g1", 36)):  # the Hub has other robots' clips too
        (tmp_path / "hub" / folder).mkdir(parents=True)
        for name in ("walk1_subject1", "dance1_subject2"):
            poses = np.full((40, columns), 0.5)
            poses[:, 3:7] = [0, 0, 0, 1]
            np.savetxt(tmp_path / "hub" / folder / f"{name}.csv", poses, delimiter=",")
    obtain("motion", tmp_path / "data", tmp_path / "hub")
    clips = load_clips(tmp_path / "data" / "lafan1_h1.npz")
    assert list(clips) == ["dance1_subject2", "walk1_subject1"]
    assert clips["walk1_subject1"].shape == (40, 26)
    with np.load(tmp_path / "data" / "lafan1_h1.npz") as archive:
        assert archive["data"].dtype == np.float32


def test_a_download_is_checked_and_kept(
    keras_archive: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checksum = hashlib.sha256(keras_archive.read_bytes()).hexdigest()
    monkeypatch.setattr(module, "MNIST", module.Published(f"{server}/downloaded.npz", checksum))
    obtain("mnist", tmp_path / "data")
    assert (tmp_path / "data" / "mnist.npz").read_bytes() == keras_archive.read_bytes()


def test_a_download_with_another_checksum_leaves_nothing(
    keras_archive: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MNIST", replace(module.MNIST, url=f"{server}/{keras_archive.name}"))
    with pytest.raises(InputError, match="changed or damaged on the way"):
        obtain("mnist", tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_without_a_network_the_message_says_how_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CIFAR10", replace(module.CIFAR10, url="http://127.0.0.1:1/cifar.tar.gz"))
    code, output = run("cifar10", "--data", str(tmp_path / "data"))
    assert code == 2 and "cannot be downloaded" in output and "--source" in output


@pytest.mark.parametrize(("name", "content"), [("mnist", b"no archive"), ("cifar10", b"no tar file")])
def test_a_source_that_is_something_else_is_refused_and_leaves_nothing(
    name: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(content)
    with pytest.raises(InputError, match="source: cannot be read"):
        obtain(name, tmp_path / "data", tmp_path / "source")
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("name", ["mnist", "cifar10", "motion"])
def test_data_that_is_there_already_stays(name: str, tmp_path: Path) -> None:
    (tmp_path / FILES[name]).write_bytes(b"before")
    code, output = run(name, "--source", str(tmp_path), "--data", str(tmp_path))
    assert code == 2 and "already exists; name another folder with --data" in output
    assert (tmp_path / FILES[name]).read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "reason"), [("1,2,3\n", "row 1 has 3 columns"), ("a,b\n", "a header whose 2 names are not")]
)
def test_a_clip_of_another_robot_or_of_words_is_refused(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "clip.csv").write_text(content)
    with pytest.raises(InputError, match=reason):
        obtain("motion", tmp_path / "data", tmp_path)
