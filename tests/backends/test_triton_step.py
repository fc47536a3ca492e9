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
from daps_tokenizer.model.transformer import Memory
from tests.settings import IMAGENET256, TINY_GRID, TINY_MLP

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")  # read when a kernel is defined
pytest.importorskip("triton")
from daps_tokenizer.backends import triton_step

# Heads of 16 numbers, the fewest that a tensor core sums.
SMALL = replace(TINY_MLP, recognition=replace(TINY_MLP.recognition, hidden_size=32))
TWO_LAYERS = replace(TINY_GRID, recognition=replace(TINY_GRID.recognition, hidden_size=64, num_layers=2, num_heads=4))
# 4 steps for 4 windows of an item: the interpreter takes half a second a step.
WINDOWED = replace(TINY_GRID, recognition=replace(TINY_GRID.recognition, hidden_size=32, window=(2, 2)))
HOPPER, ADA = 232448, 101376  # bytes of shared memory that a program may have
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def model_and_inputs(config: TokenizerConfig, batch: int) -> tuple[RecognitionModel, torch.Tensor]:
    torch.manual_seed(0)
    model = Autoencoder(config).eval().requires_grad_(False).recognition.to(DEVICE)
    assert isinstance(model, RecognitionModel)
    return model, torch.randn(batch, *config.input_shape, device=DEVICE)


@pytest.mark.parametrize(
    ("config", "num_processors", "temperature"),
    [(WINDOWED, 1, 1.0), (WINDOWED, 100, 0.0), (SMALL, 1, 1.0), (TWO_LAYERS, 100, 1.0), (TWO_LAYERS, 1, 0.0)],
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
    draw = Draw.allocate(model, context, uniform)
    fused = triton_step.FusedDraw(model, draw, num_processors=num_processors, shared_memory=HOPPER)
    fused.temperature.fill_(temperature)
    fused.run()
    assert torch.equal(model.windows.join(fused.draw.codes, 3), expected.codes)
    torch.testing.assert_close(model.windows.join(fused.draw.log_probs, 3), expected.log_probs, atol=1e-4, rtol=1e-4)


def test_rows_that_have_settled_are_left_alone() -> None:
    model, x = model_and_inputs(WINDOWED, 2)
    draw = Draw.allocate(model, model.context(x), torch.rand(2, WINDOWED.num_tokens, device=DEVICE))
    draw.codes.fill_(7)
    fused = triton_step.FusedDraw(model, draw, num_processors=8, shared_memory=HOPPER)
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


@pytest.mark.parametrize(
    ("hidden_size", "dtype", "memory", "reason"),
    [
        (128, torch.float32, ADA, ""),
        (256, torch.bfloat16, HOPPER, ""),
        (256, torch.float32, HOPPER, "too large for this GPU's shared memory"),
        (256, torch.bfloat16, ADA, "too large for this GPU's shared memory"),
        (16, torch.float32, HOPPER, "the model is too small"),
        (96, torch.float32, HOPPER, "hidden size 96 is not a power of two"),
    ],
)
def test_models_that_it_cannot_draw_are_refused(hidden_size: int, dtype: torch.dtype, memory: int, reason: str) -> None:
    config = replace(TINY_GRID, recognition=replace(TINY_GRID.recognition, hidden_size=hidden_size, num_heads=2))
    told = triton_step.reason_not_to_fuse(model_and_inputs(config, 1)[0], dtype, memory)
    assert reason in told and bool(told) == bool(reason)


@pytest.mark.skipif(torch.cuda.is_available(), reason="in the interpreter, where a product of one row is exact")
def test_in_half_precision_it_draws_by_nearly_the_same_policy() -> None:
    model, x = model_and_inputs(WINDOWED, 3)
    context = model.context(x)
    halves = [Memory(layer.keys.half(), layer.values.half()) for layer in context]
    draw = Draw.allocate(model, halves, torch.rand(3, WINDOWED.num_tokens))
    fused = triton_step.FusedDraw(model, draw, num_processors=1, shared_memory=HOPPER)
    fused.run()
    codes, told = (model.windows.join(values, 3) for values in (fused.draw.codes, fused.draw.log_probs))
    torch.testing.assert_close(told, model.log_prob(context, codes), atol=0.01, rtol=0.01)


@pytest.mark.parametrize(("architecture", "memory", "processors"), [(90, HOPPER, 132), (89, ADA, 128)])
@pytest.mark.parametrize(
    ("window", "batch", "dtype"),
    [((8, 8), 1, "bfloat16"), ((8, 8), 64, "bfloat16"), ((8, 8), 256, "bfloat16"), ((8, 8), 64, "float32"),
     ((), 1, "bfloat16")],
)  # fmt: skip
def test_the_kernel_compiles_within_the_shared_memory_of_a_multiprocessor(
    window: tuple[int, ...], batch: int, dtype: str, architecture: int, memory: int, processors: int
) -> None:
    """As it runs with the photo model (windows of 64 codes), one row a program and more, and the paper's (1,024)."""
    config = replace(IMAGENET256, recognition=replace(IMAGENET256.recognition, window=window))
    model, _ = model_and_inputs(config, 1)
    rows, count = batch * model.windows.per_item, model.windows.num_codes
    keys = torch.empty(rows, 4, count, 32, dtype=getattr(torch, dtype), device=DEVICE)
    draw = Draw.allocate(model, [Memory(keys, keys)] * 2, torch.empty(batch, 1024, device=DEVICE))
    fused = triton_step.FusedDraw(model, draw, num_processors=processors, shared_memory=memory)
    kind = {"bfloat16": "bf16", "float32": "fp32"}[dtype]
    program = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from daps_tokenizer.backends.triton_kernel import draw_rows

constants = {fused.constants()}
pointers = dict(weights="*{kind}", vectors="*fp32", code_table="*fp32", positions="*fp32", context="*{kind}",
                cache="*{kind}", uniform="*fp32", codes="*i64", log_probs="*fp32", logits="*fp32", temperature="*fp32",
                unsettled="*i32")
signature = {{name: pointers.get(name, "constexpr") for name in draw_rows.arg_names}} | dict(num_rows="i32")
source = ASTSource(draw_rows, signature=signature, constexprs=constants)
options = {fused.options}
compiled = triton.compile(source, target=GPUTarget("cuda", {architecture}, 32), options=options)
print(compiled.metadata.shared, "mma" in compiled.asm["ptx"])
"""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    shared, uses_tensor_cores = finished.stdout.split()
    assert int(shared) <= memory and (uses_tensor_cores == "True") == (kind == "bf16")
