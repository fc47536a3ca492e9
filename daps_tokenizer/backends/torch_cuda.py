"""Encoding on a GPU in PyTorch: captured passes, and for what they leave, a fused kernel or captured steps.

With Triton, passes choose codes where their logits are made.

Inputs and uniforms are copied to buffers on the GPU, and everything else happens there without the host waiting, which
then fetches the codes (:mod:`daps_tokenizer.backends.torch`). Measured on an H200 in docs/notes/gpu.md.
"""

from __future__ import annotations

import threading
import warnings
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from daps_tokenizer.backends.batching import captured_size, fill, parallel_chunk, slices
from daps_tokenizer.errors import first_line
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.capturing import capture
from daps_tokenizer.model.passes import ChooseFromHidden, Drawer, PassesDraw
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import Draw, SampledCodes, choose_codes
from daps_tokenizer.model.stepping import SteppedDraw
from daps_tokenizer.model.transformer import Memory

LoopKind = Literal["fused kernel", "captured steps"]
LOOP_KINDS: tuple[LoopKind, ...] = ("fused kernel", "captured steps")

# By how many nats per code the fused kernel's log-probabilities may differ from a parallel pass over the same codes.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
# What share of codes a fused choice must have in common with a choice by float32 logits: half precision moves some.
_FEWEST_EQUAL = 0.5
_COMPARED = 4096  # codes whose logits are made for that


class GpuEncoder:
    """Encodes batches of any size; each power of two is prepared when it is first needed."""

    def __init__(self, model: Autoencoder, dtype: torch.dtype, *, device: str = "cuda") -> None:
        """Prepare a model whose recognition model is autoregressive, on ``device`` and in ``dtype``.

        On the CPU the same work is done without capturing it, for tests.
        """
        self._model, self._dtype, self._device = model, dtype, device
        self.reason_not_to_fuse = _reason_not_to_fuse(model, dtype, device)
        self._sizes: dict[tuple[int, ...], _FixedSize] = {}
        self._lock = threading.Lock()  # buffers are shared: one call at a time

    @property
    def info(self) -> str:
        """How codes are drawn, in words."""
        if not self.reason_not_to_fuse:
            return "in passes, then by a fused kernel"
        return f"in passes, then by captured steps ({self.reason_not_to_fuse})"

    def encode(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> SampledCodes:
        """Codes (B, N) int64 and log-probabilities (B, N), on the GPU, where they are ready."""
        parts = []
        with self._lock:
            for rows in slices(len(inputs), parallel_chunk(self._model.config, "cuda")):
                count = rows.stop - rows.start
                size = captured_size(count)
                fixed = self._prepared((size, *inputs.shape[1:]))
                sampled = fixed.encode(fill(inputs[rows], size), fill(uniform[rows], size), temperature)
                parts.append(SampledCodes(sampled.codes[:count], sampled.log_probs[:count]))
            if self._device == "cuda":  # a thread with another stream may write to the buffers as soon as it is let
                torch.cuda.current_stream().synchronize()
        return (
            parts[0] if len(parts) == 1 else SampledCodes(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
        )

    def _prepared(self, shape: tuple[int, ...]) -> _FixedSize:
        """What encodes inputs of this shape: tiles of photographs may have their surroundings around them."""
        if shape not in self._sizes:
            fixed = _FixedSize(self._model, shape, self._dtype, self._device, fused=not self.reason_not_to_fuse)
            # Whether this GPU compiles the kernel right, another for each size, is seen before it is relied on.
            if not self.reason_not_to_fuse and (problem := fixed.check()):
                warnings.warn(f"not using the fused kernel: {problem}", RuntimeWarning, stacklevel=5)
                self.reason_not_to_fuse = problem
                fixed = _FixedSize(self._model, shape, self._dtype, self._device, fused=False)
            fixed.find_what_is_quicker()
            self._sizes[shape] = fixed
        return self._sizes[shape]


class _FixedSize:
    """Buffers for batches of one shape, and the work on them, captured."""

    def __init__(
        self, model: Autoencoder, shape: tuple[int, ...], dtype: torch.dtype, device: str, *, fused: bool
    ) -> None:
        assert isinstance(model.recognition, RecognitionModel)
        self._model, self._recognition, self._dtype, self._size = model, model.recognition, dtype, (size := shape[0])
        config = model.config
        kind = torch.uint8 if config.modality == "image" else torch.float32
        self._inputs = torch.zeros(shape, dtype=kind, device=device)
        # Page-locked, from which a GPU copies by itself, and several times as fast.
        self._staged = torch.zeros(shape, dtype=kind, pin_memory=device == "cuda")
        self._copied = torch.cuda.Event() if device == "cuda" else None
        draw = Draw.allocate(self._recognition, self._context(), torch.rand(size, config.num_tokens, device=device))
        self._rest = draw_with("fused kernel" if fused else "captured steps", self._recognition, draw)
        choose = fused_choice(self._recognition, dtype, draw.uniform) if fused else None
        self._drawer = PassesDraw(self._recognition, self._rest, choose=choose)
        self._context_graph: torch.cuda.CUDAGraph | None = None
        if device == "cuda":
            self._drawer.capture()
            torch.cuda.synchronize()  # the context was computed above: what capturing must not load is loaded
            self._context_graph = capture(lambda: self._drawer.set_context(self._context()))

    def encode(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> SampledCodes:
        """Encode ``size`` items."""
        windows, draw = self._recognition.windows, self._drawer.draw
        if self._copied is not None:
            self._copied.synchronize()  # the batch before may still be on its way
        self._staged.numpy()[...] = inputs
        self._inputs.copy_(self._staged, non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        draw.uniform.copy_(windows.split(torch.from_numpy(np.array(uniform)), self._size))
        self._drawer.temperature.fill_(temperature)
        self._set_context()
        self._drawer.run(greedy=temperature == 0)
        # New tensors: the next call writes to the same buffers.
        return SampledCodes(*(windows.join(values, self._size).clone() for values in (draw.codes, draw.log_probs)))

    def check(self) -> str:
        """What is wrong with the rest's log-probabilities, by a parallel pass over the codes it drew; or nothing."""
        try:
            self._set_context()
            self._drawer.unsettled.fill_(1)
            self._rest.run()
            codes, told = (
                self._recognition.windows.join(values, self._size)
                for values in (self._drawer.draw.codes, self._drawer.draw.log_probs)
            )
            expected = self._recognition.log_prob(self._context(), codes)
            difference = float((told - expected).abs().mean())
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # Triton's compiler has many, and whatever it is, there is another way
            return f"{type(error).__name__}: {first_line(error)}"
        if difference <= _TOLERANCE[self._dtype]:
            return ""
        return f"its log-probabilities are {difference:.2g} nats per code from those of a parallel pass"

    def find_what_is_quicker(self) -> None:
        """Make no passes where they settle hardly any windows: noise shows of a model what its data does."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(self._inputs.shape, generator=generator)
        self._inputs.copy_(noise * 255 if self._inputs.dtype == torch.uint8 else noise)
        self._drawer.draw.uniform.copy_(torch.rand(self._drawer.draw.uniform.shape, generator=generator))
        self._set_context()
        self._drawer.find_what_is_quicker()

    def _set_context(self) -> None:
        if self._context_graph is None:
            self._drawer.set_context(self._context())
        else:
            self._context_graph.replay()

    def _context(self) -> list[Memory]:
        return self._recognition.context(self._model.standardise(self._inputs))


def _reason_not_to_fuse(model: Autoencoder, dtype: torch.dtype, device: str) -> str:
    try:
        from daps_tokenizer.backends.triton_step import reason_not_to_fuse
    except ModuleNotFoundError:
        return "the package triton is not installed"
    assert isinstance(model.recognition, RecognitionModel)
    return reason_not_to_fuse(model.recognition, dtype, _shared_memory(torch.device(device)))


def _shared_memory(device: torch.device) -> int:
    """Bytes of it that a program may have; as much as an H200 has where kernels are interpreted."""
    if device.type != "cuda":
        return 232448
    gpu = torch.cuda.get_device_properties(device)
    bytes_: int = gpu.shared_memory_per_block_optin  # type: ignore[attr-defined]  # PyTorch's stubs leave it out
    return bytes_


def fused_choice(recognition: RecognitionModel, dtype: torch.dtype, uniform: Tensor) -> ChooseFromHidden | None:
    """What chooses codes without logits in memory, if it chooses right here; None, with a warning, if it does not.

    None too for code books, whose scores are added to the logits. ``uniform`` (rows, n) is what it is tried on: as many
    rows as it will have, since the kernel is another for few and for many.
    """
    from daps_tokenizer.backends.triton_step import FusedChoice

    if recognition.code_books is not None:
        return None
    hidden = torch.randn(*uniform.shape, recognition.head.in_features, device=uniform.device).to(dtype)
    try:
        choose = FusedChoice(recognition, dtype)
        problems = (_problem_of_choice(choose, recognition, hidden, uniform, greedy) for greedy in (False, True))
        problem = next(filter(None, problems), "")
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # as with the fused kernel
        problem = f"{type(error).__name__}: {first_line(error)}"
    if problem:
        warnings.warn(f"not using the fused choice of codes: {problem}", RuntimeWarning, stacklevel=2)
        return None
    return choose


def _problem_of_choice(
    choose: ChooseFromHidden, recognition: RecognitionModel, hidden: Tensor, uniform: Tensor, greedy: bool
) -> str:
    """What is wrong with codes that are chosen of hidden states (rows, n, H), or nothing."""
    temperature = torch.full((), 0.0 if greedy else 1.0, device=uniform.device)
    chosen = choose(hidden, uniform, temperature, greedy)
    some = slice(max(1, _COMPARED // uniform.shape[1]))
    codes, logits = chosen.codes[some], recognition.head(hidden[some].float())
    log_q = logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0]
    difference = float((chosen.log_probs[some] - log_q).abs().mean())
    if not difference <= _TOLERANCE[hidden.dtype]:
        return f"its log-probabilities are {difference:.2g} nats apart"
    equal = float((codes == choose_codes(logits, uniform[some], temperature)).float().mean())
    return "" if equal >= _FEWEST_EQUAL else f"{1 - equal:.0%} of its codes are not those that the logits choose"


def draw_with(kind: LoopKind, recognition: RecognitionModel, draw: Draw) -> Drawer:
    """What draws codes one position after the other: Triton's kernel, or CUDA graphs of PyTorch's own."""
    if kind == "fused kernel":
        from daps_tokenizer.backends.triton_step import FusedDraw

        device = draw.uniform.device
        processors = torch.cuda.get_device_properties(device).multi_processor_count if draw.uniform.is_cuda else 1
        return FusedDraw(recognition, draw, num_processors=processors, shared_memory=_shared_memory(device))
    stepped = SteppedDraw(recognition, draw)
    if draw.uniform.is_cuda:
        stepped.capture()
    return stepped
