"""Encoding in ONNX Runtime as on a GPU, graph by graph on buffers that stay, here with the provider of the CPU."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from daps_tokenizer.backends.onnx import OnnxBackend
from daps_tokenizer.backends.onnx_captured import CapturedEncoder
from daps_tokenizer.errors import BackendError
from daps_tokenizer.hub import ModelFolder, open_model

ITEMS = 6


@pytest.fixture(scope="module")
def folder(random_mnist_folder: Path) -> ModelFolder:
    """Random weights: codes depend on each other, and rows settle after different numbers of passes."""
    return open_model(random_mnist_folder)


@pytest.fixture
def loaded() -> list[str]:
    """The graphs that an encoder has asked for."""
    return []


def encoder(folder: ModelFolder, loaded: list[str], max_passes: int) -> CapturedEncoder:
    def session(name: str) -> Any:
        loaded.append(name)
        return onnxruntime.InferenceSession(folder.path / "onnx" / f"{name}.onnx", providers=["CPUExecutionProvider"])

    return CapturedEncoder(session, folder.config, images().shape, device="cpu", max_passes=max_passes)


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (ITEMS, 28, 28, 1), dtype=np.uint8)


def uniform() -> np.ndarray:
    return np.random.default_rng(1).random((ITEMS, 8), dtype=np.float32)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("max_passes", [0, 2, 3, 9])
def test_passes_and_the_steps_after_them_draw_the_codes_of_the_encoder(
    folder: ModelFolder, loaded: list[str], max_passes: int, temperature: float
) -> None:
    expected = OnnxBackend.open(folder).encode(images(), uniform(), temperature)
    codes, log_probs = encoder(folder, loaded, max_passes).run(images(), uniform(), temperature)
    np.testing.assert_array_equal(codes, expected.codes)
    np.testing.assert_allclose(log_probs, expected.log_probs, atol=1e-5)


def test_graphs_are_loaded_when_they_are_needed(folder: ModelFolder, loaded: list[str]) -> None:
    encoder(folder, loaded, max_passes=9).run(images(), uniform(), 1.0)  # one more than codes: all settle
    assert loaded == ["encoder_context", "encoder_pass"]
    encoder(folder, loaded, max_passes=2).run(images(), uniform(), 1.0)
    assert loaded[2:] == ["encoder_context", "encoder_pass", "encoder_step"]


def test_buffers_are_used_again_without_a_trace_of_what_they_held(folder: ModelFolder, loaded: list[str]) -> None:
    kept = encoder(folder, loaded, max_passes=2)
    first = kept.run(images(), uniform(), 1.0)
    kept.run(images()[::-1], uniform()[::-1], 0.0)
    for before, after in zip(first, kept.run(images(), uniform(), 1.0), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_backend_cuts_batches_into_sizes_that_are_captured(folder: ModelFolder) -> None:
    backend = OnnxBackend.open(folder)
    expected = backend.encode(images()[:5], uniform()[:5], 1.0)
    captured = backend._encode_captured(images()[:5], uniform()[:5], 1.0)  # five fill up a batch of eight
    np.testing.assert_array_equal(captured.codes, expected.codes)
    np.testing.assert_allclose(captured.log_probs, expected.log_probs, atol=1e-5)


def test_images_come_with_and_without_their_surroundings(
    random_grid_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers_of_graphs = list[int]()

    def made(*given: Any, number: int, **options: Any) -> CapturedEncoder:
        numbers_of_graphs.append(number)
        return CapturedEncoder(*given, number=number, **options)

    monkeypatch.setattr("daps_tokenizer.backends.onnx.CapturedEncoder", made)
    folder = open_model(random_grid_folder)
    backend, rng, around = OnnxBackend.open(folder), np.random.default_rng(0), folder.config.recognition.surroundings
    numbers = rng.random((ITEMS, folder.config.num_tokens), dtype=np.float32)
    for side in (16, 16 + 2 * around, 16):
        inputs = rng.integers(0, 256, (ITEMS, side, side, 3), dtype=np.uint8)
        expected, captured = (encode(inputs, numbers, 1.0) for encode in (backend.encode, backend._encode_captured))
        np.testing.assert_array_equal(captured.codes, expected.codes)
    assert numbers_of_graphs == [0, 1]  # with equal numbers, one would replay what was captured of the other


def test_a_gpu_that_fails_is_an_error_and_not_the_cpu(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = OnnxBackend.open(folder)
    assert not backend._session("decoder", num_threads=1)._enable_fallback  # to what ONNX Runtime takes after a failure

    def no_memory(encoder: CapturedEncoder, *batch: Any) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 268435456\nand more")

    monkeypatch.setattr(CapturedEncoder, "run", no_memory)
    with pytest.raises(BackendError, match=r"ONNX Runtime failed there \(Failed to allocate .* a smaller batch"):
        backend._encode_captured(images(), uniform(), 1.0)
    assert not backend._encoders  # its buffers are free again


def test_an_encoder_that_failed_leaves_its_number_to_no_other(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With equal numbers, one would replay what was captured of the other."""
    numbers, runs = list[int](), CapturedEncoder.run

    def made(*given: Any, number: int, **options: Any) -> CapturedEncoder:
        numbers.append(number)
        return CapturedEncoder(*given, number=number, **options)

    def fails_on_two(encoder: CapturedEncoder, inputs: np.ndarray, *others: Any) -> list[np.ndarray]:
        if len(inputs) == 2:
            raise RuntimeError("no memory")
        return runs(encoder, inputs, *others)

    monkeypatch.setattr("daps_tokenizer.backends.onnx.CapturedEncoder", made)
    monkeypatch.setattr(CapturedEncoder, "run", fails_on_two)
    backend = OnnxBackend.open(folder)
    for count in (2, 1, 4):
        with pytest.raises(BackendError) if count == 2 else contextlib.nullcontext():
            backend._encode_captured(images()[:count], uniform()[:count], 1.0)
    assert numbers == [0, 1, 2]
