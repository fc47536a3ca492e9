"""A Tokenizer in other processes: pickled, copied, forked, spawned, and in the workers of a DataLoader."""

import copy
import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daps_tokenizer import BackendError, Tokenizer
from daps_tokenizer.backends.protocol import Backend
from daps_tokenizer.hub import open_model
from tests.test_tokenizer import digits


@pytest.fixture(scope="module")
def tok(random_mnist_folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(random_mnist_folder, num_threads=1)


def encode_here(tok: Tokenizer, images: np.ndarray) -> np.ndarray:
    return tok.encode(images).numpy()


class Digits:
    """A dataset of PyTorch whose items are codes: the workers of a DataLoader encode."""

    def __init__(self, tok: Tokenizer, images: np.ndarray) -> None:
        self.tok, self.images = tok, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.tok.encode(self.images[index]).torch()[0]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda tok: pickle.loads(pickle.dumps(tok))])
def test_a_copy_opens_the_same_folder_with_the_same_options(tok: Tokenizer, again: Any) -> None:
    other = again(tok)
    assert other is not tok and repr(other) == repr(tok) and other.config == tok.config
    assert other.backend_info == tok.backend_info
    assert other.encode(digits(3)) == tok.encode(digits(3))
    assert pickle.loads(pickle.dumps(other)).encode(digits(3)) == tok.encode(digits(3))


def test_a_copy_finds_its_folder_from_another_working_directory(
    random_mnist_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(random_mnist_folder.parent)
    pickled = pickle.dumps(Tokenizer.from_pretrained(f"./{random_mnist_folder.name}"))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(pickled).encode(digits(1)).shape == (1, 8)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_encodes_as_this_one(tok: Tokenizer, method: str) -> None:
    expected = tok.encode(digits(4)).numpy()  # so that its threads run when the process is forked
    with multiprocessing.get_context(method).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(encode_here, (tok, digits(4))), expected)


_inherited: list[Tokenizer] = []


def encode_with_what_was_inherited(images: np.ndarray) -> np.ndarray:
    return _inherited[0].encode(images).numpy()


@pytest.fixture
def threads() -> Iterator[int]:
    """PyTorch with several threads that have worked, so that a forked process would wait for them."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    torch.ones(1_000_000).sin()
    yield 4
    torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["onnx", "torch"])
@pytest.mark.parametrize("how", ["inherited", "pickled"])
def test_a_forked_process_waits_for_no_thread_of_the_first(
    random_mnist_folder: Path, backend: Any, how: str, threads: int
) -> None:
    tok = Tokenizer.from_pretrained(random_mnist_folder, backend=backend, num_threads=threads)
    expected = tok.encode(digits(4)).numpy()
    _inherited[:] = [tok]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        task = (encode_here, (tok, digits(4))) if how == "pickled" else (encode_with_what_was_inherited, (digits(4),))
        np.testing.assert_array_equal(pool.apply_async(*task).get(timeout=300), expected)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_workers_of_a_dataloader_encode(tok: Tokenizer, method: str) -> None:
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(Digits(tok, digits(6)), batch_size=3, num_workers=1, multiprocessing_context=method)
    codes = np.concatenate([batch.numpy() for batch in loader])
    np.testing.assert_array_equal(codes, tok.encode(digits(6)).numpy())


class OnGpu:
    """A backend that says it is on a GPU."""

    name, device, info, tiles_per_item = "torch", "cuda", "torch on cuda", 1


def device_error(_: int) -> str:
    try:
        _inherited[0].encode(digits(1))
    except BackendError as error:
        return str(error)
    return "no error"


def test_a_gpu_in_a_forked_process_is_refused(random_mnist_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_on_gpu(*_: object, **__: object) -> Backend:
        return OnGpu()  # type: ignore[return-value]

    monkeypatch.setattr("daps_tokenizer.tokenizer.open_backend", open_on_gpu)
    _inherited[:] = [Tokenizer.from_pretrained(random_mnist_folder)]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(device_error, (0,)) == (
            "random-mnist was opened on device 'cuda' before this process was forked, and a GPU cannot be used then; "
            'start processes by "spawn"'
        )


def test_a_tokenizer_that_was_given_a_backend_says_that_it_cannot_be_copied(tok: Tokenizer) -> None:
    folder = open_model("daps-mnist")
    with pytest.raises(TypeError, match="a Tokenizer that was given a backend cannot be copied; open it with from_pre"):
        pickle.dumps(Tokenizer(folder, tok._backend))
