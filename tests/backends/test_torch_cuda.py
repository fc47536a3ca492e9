"""What encodes on a GPU, done on the CPU without capturing: the same codes as the plain loop in batches of any size."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")  # read when a kernel is defined
from daps_tokenizer.backends import torch_cuda
from daps_tokenizer.backends.torch_cuda import GpuEncoder
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import sample_codes
from tests.model.test_stepping import TINY_WINDOWED
from tests.settings import TINY_MLP, TINY_MOTION, TINY_SPECTRAL, TINY_SURROUNDINGS

# Heads of 16 numbers, which the fused kernel takes.
FUSED_MLP, FUSED_WINDOWED = (
    replace(config, recognition=replace(config.recognition, hidden_size=32)) for config in (TINY_MLP, TINY_WINDOWED)
)


def model_and_inputs(config: TokenizerConfig, batch: int) -> tuple[Autoencoder, np.ndarray, np.ndarray]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (batch, *config.input_shape), dtype=np.uint8)
    if config.modality == "motion":
        inputs = inputs.astype(np.float32) / 255
    return Autoencoder(config).eval().requires_grad_(False), inputs, rng.random((batch, config.num_tokens), np.float32)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "config", [FUSED_MLP, FUSED_WINDOWED, TINY_MOTION, TINY_SPECTRAL], ids=lambda config: config.name
)
@torch.inference_mode()
def test_codes_are_those_of_the_plain_loop(config: TokenizerConfig, temperature: float) -> None:
    model, inputs, uniform = model_and_inputs(config, 5)
    assert isinstance(model.recognition, RecognitionModel)
    context = model.recognition.context(model.standardise(torch.from_numpy(inputs)))
    expected = sample_codes(model.recognition, context, torch.from_numpy(uniform), temperature)
    encoder = GpuEncoder(model, torch.float32, device="cpu")
    for rows in (slice(0, 5), slice(3, 4)):  # filled up to 8; another size, after it
        encoded = encoder.encode(inputs[rows], uniform[rows], temperature)
        assert torch.equal(encoded.codes, expected.codes[rows])
        torch.testing.assert_close(encoded.log_probs, expected.log_probs[rows], atol=1e-4, rtol=1e-4)
    assert encoder.info.startswith("in passes, then by ")


@torch.inference_mode()
def test_images_come_with_and_without_their_surroundings() -> None:
    model, images, uniform = model_and_inputs(TINY_SURROUNDINGS, 3)
    assert isinstance(model.recognition, RecognitionModel)
    around = TINY_SURROUNDINGS.recognition.surroundings
    surrounded = np.random.default_rng(1).integers(0, 256, (3, 16 + 2 * around, 16 + 2 * around, 3), dtype=np.uint8)
    encoder = GpuEncoder(model, torch.float32, device="cpu")
    for inputs in (images, surrounded, images):
        context = model.recognition.context(model.standardise(torch.from_numpy(inputs)))
        expected = sample_codes(model.recognition, context, torch.from_numpy(uniform), 1.0)
        assert torch.equal(encoder.encode(inputs, uniform, 1.0).codes, expected.codes)


@torch.inference_mode()
def test_a_part_of_a_batch_does_not_overwrite_the_codes_of_the_part_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_cuda, "parallel_chunk", lambda config, device: 4)
    model, inputs, uniform = model_and_inputs(FUSED_MLP, 8)
    encoder = GpuEncoder(model, torch.float32, device="cpu")
    together = encoder.encode(inputs, uniform, 1.0)
    for rows in (slice(0, 4), slice(4, 8)):
        alone = GpuEncoder(model, torch.float32, device="cpu").encode(inputs[rows], uniform[rows], 1.0)
        assert torch.equal(together.codes[rows], alone.codes)
        assert torch.equal(together.log_probs[rows], alone.log_probs)


@torch.inference_mode()
def test_the_next_batch_does_not_overwrite_codes_that_were_returned() -> None:
    model, inputs, uniform = model_and_inputs(FUSED_MLP, 8)
    encoder = GpuEncoder(model, torch.float32, device="cpu")
    first = encoder.encode(inputs[:4], uniform[:4], 1.0)
    codes, log_probs = first.codes.clone(), first.log_probs.clone()
    second = encoder.encode(inputs[4:], uniform[4:], 1.0)
    assert torch.equal(first.codes, codes) and torch.equal(first.log_probs, log_probs)
    assert not torch.equal(second.codes, codes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on the CPU the kernel runs in the interpreter only")
@torch.inference_mode()
def test_a_kernel_that_draws_wrong_is_not_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    triton_step = pytest.importorskip("daps_tokenizer.backends.triton_step")
    model, inputs, uniform = model_and_inputs(FUSED_MLP, 2)
    pack = triton_step._pack
    monkeypatch.setattr(triton_step, "_pack", lambda *arguments: (pack(*arguments)[0] * 0.5, pack(*arguments)[1]))
    encoder = GpuEncoder(model, torch.float32, device="cpu")
    with pytest.warns(
        RuntimeWarning, match="not using the fused kernel: its log-probabilities are .* nats per code from"
    ):
        encoded = encoder.encode(inputs, uniform, 1.0)
    context = model.recognition.context(model.standardise(torch.from_numpy(inputs)))
    assert torch.equal(encoded.codes, sample_codes(model.recognition, context, torch.from_numpy(uniform), 1.0).codes)
    assert "then by captured steps (its log-probabilities are" in encoder.info
