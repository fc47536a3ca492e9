"""The fused kernel: in Triton's interpreter it draws what the eager loop draws, and it compiles for the GPUs we know.

Both need the package triton, which comes with PyTorch for CUDA only; without it these tests are skipped.
"""

import os
from dataclasses import replace

import pytest
import torch

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import Draw, sample_codes
from tests.settings import TINY_GRID, TINY_MLP, TINY_MOTION

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")  # read when a kernel is defined
pytest.importorskip("triton")
from daps_tokenizer.backends import triton_step

TWO_LAYERS = replace(TINY_GRID, recognition=replace(TINY_GRID.recognition, num_layers=2, num_heads=4))
WINDOWED = replace(TINY_GRID, recognition=replace(TINY_GRID.recognition, window=(2, 2)))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.usefixtures("one_thread")


def model_and_inputs(config: TokenizerConfig, batch: int) -> tuple[RecognitionModel, torch.Tensor]:
    torch.manual_seed(0)
    model = Autoencoder(config).eval().requires_grad_(False).recognition.to(DEVICE)
    assert isinstance(model, RecognitionModel)
    return model, torch.randn(batch, *config.input_shape, device=DEVICE)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("num_processors", [1, 100], ids=["many rows a program", "one row a program"])
@pytest.mark.parametrize("config", [TINY_MLP, TWO_LAYERS, WINDOWED, TINY_MOTION], ids=lambda config: config.name)
def test_the_kernel_draws_what_the_eager_loop_draws(
    config: TokenizerConfig, num_processors: int, temperature: float
) -> None:
    model, x = model_and_inputs(config, 3)
    context = model.context(x)
    uniform = torch.rand(3, config.num_tokens, device=DEVICE)
    expected = sample_codes(model, context, uniform, temperature)
    fused = triton_step.FusedDraw(model, Draw.allocate(model, context, uniform), num_processors=num_processors)
    fused.temperature.fill_(temperature)
    fused.run()
    assert torch.equal(model.windows.join(fused.draw.codes, 3), expected.codes)
    torch.testing.assert_close(model.windows.join(fused.draw.log_probs, 3), expected.log_probs, atol=1e-4, rtol=1e-4)
