"""The fused kernel: in Triton's interpreter it draws what the eager loop draws, and it compiles for the GPUs we know.

Both need the package triton, which comes with PyTorch for CUDA only; without it these tests are skipped.
"""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import Draw, choose_with_log_q, sample_codes
from tests.settings import TINY_GRID, TINY_MLP

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")  # read when a kernel is defined
pytest.importorskip("triton")
from daps_tokenizer.backends import triton_step

TWO_LAYERS = replace(TINY_GRID, recognition=replace(TINY_GRID.recognition, num_layers=2, num_heads=4))
# 4 steps for 4 windows of an item: the interpreter takes half a second a step.
WINDOWED = replace(TINY_GRID, recognition=replace(TINY_GRID.recognition, window=(2, 2)))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def model_and_inputs(config: TokenizerConfig, batch: int) -> tuple[RecognitionModel, torch.Tensor]:
    torch.manual_seed(0)
    model = Autoencoder(config).eval().requires_grad_(False).recognition.to(DEVICE)
    assert isinstance(model, RecognitionModel)
    return model, torch.randn(batch, *config.input_shape, device=DEVICE)


@pytest.mark.parametrize(
    ("config", "num_processors", "temperature"),
    [(WINDOWED, 1, 1.0), (WINDOWED, 100, 0.0), (TINY_MLP, 1, 1.0), (TWO_LAYERS, 100, 1.0), (TWO_LAYERS, 1, 0.0)],
    ids=[
        "windows, many rows a program",
        "windows, one row a program",
        "a small MLP",
        "two layers",
        "two layers, greedy",
    ],
)
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


def test_rows_that_have_settled_are_left_alone() -> None:
    model, x = model_and_inputs(WINDOWED, 2)
    draw = Draw.allocate(model, model.context(x), torch.rand(2, WINDOWED.num_tokens, device=DEVICE))
    draw.codes.fill_(7)
    fused = triton_step.FusedDraw(model, draw, num_processors=8)
    fused.unsettled.zero_()
    fused.run()
    assert (draw.codes == 7).all()


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("vocab_size", [16, 200, 512])  # within a block, no power of two, several blocks
def test_codes_are_chosen_as_from_logits(vocab_size: int, temperature: float) -> None:
    model, _ = model_and_inputs(replace(TINY_MLP, vocab_size=vocab_size), 1)
    hidden = torch.randn(3, 7, model.head.in_features, device=DEVICE)  # 21 rows: the second program is not full
    uniform, sharpness = torch.rand(3, 7, device=DEVICE), torch.tensor(temperature, device=DEVICE)
    expected = choose_with_log_q(model.head(hidden), uniform, sharpness)
    choose = triton_step.FusedChoice(model, torch.float32)
    for greedy in (False, True) if temperature == 0 else (False,):
        chosen = choose(hidden, uniform, sharpness, greedy)
        assert torch.equal(chosen.codes, expected.codes)
        torch.testing.assert_close(chosen.log_probs, expected.log_probs, atol=1e-4, rtol=1e-4)


def test_a_uniform_number_next_to_one_draws_no_code_that_is_hardly_probable_where_it_is_chosen() -> None:
    model, _ = model_and_inputs(replace(TINY_MLP, vocab_size=300), 1)
    with torch.no_grad():
        model.head.bias[-1] = -80.0
    hidden = torch.randn(1, 2000, model.head.in_features, device=DEVICE)
    uniform = torch.full((1, 2000), 1 - 2.0**-24, device=DEVICE)
    chosen = triton_step.FusedChoice(model, torch.float32)(hidden, uniform, torch.ones((), device=DEVICE), False)
    assert int(chosen.codes.max()) < 299
    log_q = model.head(hidden).log_softmax(-1).gather(-1, chosen.codes[..., None])[..., 0]
    torch.testing.assert_close(chosen.log_probs, log_q, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize(("rows", "kind"), [(16, "bf16"), (64, "bf16"), (16, "fp32")])
def test_the_choice_compiles_for_hopper(rows: int, kind: str, greedy: bool) -> None:
    program = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from daps_tokenizer.backends.triton_kernel import choose_rows

constants = dict(HIDDEN=128, VOCAB=1024, ROWS={rows}, COLUMNS=128, GREEDY={greedy})
pointers = dict(hidden="*{kind}", weights="*{kind}", bias="*fp32", uniform="*fp32", temperature="*fp32", codes="*i64",
                log_probs="*fp32")
signature = {{name: pointers.get(name, "constexpr") for name in choose_rows.arg_names}} | dict(num_rows="i32")
source = ASTSource(choose_rows, signature=signature, constexprs=constants)
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=4))
print(compiled.metadata.shared, "mma" in compiled.asm["ptx"])
"""
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"TRITON_INTERPRET": "0"},
    )
    shared, uses_tensor_cores = finished.stdout.split()
    assert int(shared) <= 227 * 1024 and (uses_tensor_cores == "True") == (kind == "bf16")


@pytest.mark.parametrize(("count", "rows"), [(64, 1), (64, 16), (1024, 1)])
def test_the_kernel_compiles_for_hopper_within_the_shared_memory_of_a_multiprocessor(count: int, rows: int) -> None:
    """As it runs with the photo model (windows of 64 codes) and the paper's model (1,024 codes), in bfloat16."""
    program = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from daps_tokenizer.backends.triton_kernel import draw_rows

constants = dict(LAYERS=2, HEADS=4, HEAD_SIZE=32, MLP=4, VOCAB=1024, CONTEXT={count}, COUNT={count}, ROWS={rows},
                 BLOCK={64 // rows}, COLUMNS=128, EPS=1e-6)
pointers = dict(weights="*bf16", vectors="*fp32", code_table="*bf16", positions="*bf16", context="*bf16",
                cache="*bf16", uniform="*fp32", codes="*i64", log_probs="*fp32", logits="*fp32", temperature="*fp32",
                unsettled="*i32")
signature = {{name: pointers.get(name, "constexpr") for name in draw_rows.arg_names}} | dict(num_rows="i32")
source = ASTSource(draw_rows, signature=signature, constexprs=constants)
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=8))
print(compiled.metadata.shared, "mma" in compiled.asm["ptx"])
"""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    shared, uses_tensor_cores = finished.stdout.split()
    assert int(shared) <= 227 * 1024 and uses_tensor_cores == "True"
