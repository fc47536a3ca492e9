"""The whole autoregressive loop as one Triton kernel: a program draws all positions of its rows, and no other waits.

A row is a window, or an item where items are not cut. 16 windows of one image run on 16 multiprocessors; large batches
put up to 16 rows on each. Weights are read from the L2 cache once a step and program; docs/notes/gpu.md counts
what that costs, and why they do not stay in shared memory.

Compared with the eager loop in Triton's interpreter (tests/backends/test_triton_step.py) and on an H200
(docs/notes/gpu.md).
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from daps_tokenizer.backends.triton_kernel import choose_rows, draw_rows
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import Draw, SampledCodes
from daps_tokenizer.model.transformer import LAYER_NORM_EPS, Memory

_TILE = 16  # rows of a tensor core's tile, and the fewest numbers that a product sums
_MUCH_MEMORY = 160 * 1024  # bytes of shared memory that an A100 has, and an H100; a GeForce card has 99 KB
_OTHER_MEMORY = 4096  # of a program, beside tiles of keys and values or of weights
_MAX_VOCAB = 4096  # logits of a row are held at once
_ELEMENTS = 8192  # of the keys that a program loads at once
_WARPS = 8
# Rows of a program that chooses codes: a tile's height, or more where there are enough for all multiprocessors.
_ROWS_TO_CHOOSE, _MORE_ROWS, _MANY_ROWS = 16, 64, 16384
_COLUMNS = 128  # of a weight matrix that are multiplied at once


def reason_not_to_fuse(model: RecognitionModel, dtype: torch.dtype, shared_memory: int) -> str:
    """What of a model the kernel cannot do in ``dtype`` with so many bytes of shared memory, or an empty string."""
    if model.code_books is not None:
        return "its code books score the codes of a position"
    block = model.decoder_blocks[0]
    sizes = {
        "hidden size": block.feed_forward.up.in_features,
        "heads": block.self_attention.num_heads,
        "feed-forward size": block.feed_forward.up.out_features,
        "vocabulary": model.vocab_size,
    }
    if sizes["hidden size"] // sizes["heads"] < _TILE or model.vocab_size < _TILE:
        return "the model is too small"
    odd = [f"{name} {size}" for name, size in sizes.items() if size & (size - 1) or size > _MAX_VOCAB]
    if odd:
        return f"{odd[0]} is not a power of two up to {_MAX_VOCAB}"
    matrix = sizes["hidden size"] ** 2 * dtype.itemsize
    return "" if matrix + _OTHER_MEMORY <= shared_memory else "a matrix of it is too large for this GPU's shared memory"


class FusedChoice:
    """Chooses the codes of a pass from its last hidden states; logits (rows, n, V) are never in memory.

    The head's weights are rounded to ``dtype`` and products are summed in float32, as :class:`FusedDraw` does it.
    """

    def __init__(self, model: RecognitionModel, dtype: torch.dtype) -> None:
        self._weights = model.head.weight.detach().to(dtype).contiguous()
        self._bias = model.head.bias.detach().float().contiguous()

    def __call__(self, hidden: Tensor, uniform: Tensor, temperature: Tensor, greedy: bool) -> SampledCodes:
        """Hidden states (rows, n, H), uniforms (rows, n) and a temperature (), 0 if ``greedy`` -> codes (rows, n)."""
        count = uniform.numel()
        vocab_size, hidden_size = self._weights.shape
        codes = torch.empty(uniform.shape, dtype=torch.long, device=uniform.device)
        log_probs = torch.empty(uniform.shape, dtype=torch.float32, device=uniform.device)
        # Without tensor cores a tile of 64 float32 rows is unrolled into 8,000 products: half a minute to compile.
        is_wide = count >= _MANY_ROWS and self._weights.dtype != torch.float32
        rows = _MORE_ROWS if is_wide else _ROWS_TO_CHOOSE
        choose_rows[(triton.cdiv(count, rows),)](
            hidden.contiguous(),
            self._weights,
            self._bias,
            uniform.contiguous(),
            temperature,
            codes,
            log_probs,
            count,
            HIDDEN=hidden_size,
            VOCAB=vocab_size,
            ROWS=rows,
            COLUMNS=min(_COLUMNS, triton.next_power_of_2(vocab_size)),
            GREEDY=greedy,
            num_warps=4,
        )
        return SampledCodes(codes, log_probs)


class FusedDraw:
    """A :class:`~daps_tokenizer.model.sampling.Draw` by one launch; used like ``SteppedDraw``.

    Rows that are 0 in ``unsettled`` may be left as they are.
    """

    def __init__(self, model: RecognitionModel, draw: Draw, *, num_processors: int, shared_memory: int) -> None:
        """Prepare to draw with what is in ``draw`` then.

        Args:
            model: of which :func:`reason_not_to_fuse` says nothing.
            draw: contexts and uniforms; its context is replaced by a copy, for :meth:`set_context` to fill.
            num_processors: multiprocessors of the GPU, among which rows are spread.
            shared_memory: bytes of it that a program may have.
        """
        rows, self._count = draw.uniform.shape
        keys = draw.context[0].keys
        layers, _, self._heads, self._context_length, self._head_size = len(draw.context), *keys.shape
        shape = (layers, 2, rows, self._heads)
        self._context = keys.new_empty(*shape, self._context_length, self._head_size)
        self._cache = keys.new_empty(*shape, self._count, self._head_size)
        self._weights, self._vectors = _pack(model, keys.dtype)
        self._code_table = model.code_embedding.weight
        self._positions = model.positions
        self._hidden = self._heads * self._head_size
        self._mlp = model.decoder_blocks[0].feed_forward.up.out_features // self._hidden
        self._logits = torch.empty(rows, model.vocab_size, device=keys.device)
        self._vocab_size = model.vocab_size
        # Shared memory holds tiles of keys and values, or of weights. What fits decides how many rows a program draws,
        # and whether tiles are loaded two ahead of their use (three stages) or not ahead.
        much, full = shared_memory >= _MUCH_MEMORY, keys.dtype == torch.float32
        most = max(1, min(_TILE, (2048 if much else 1024) // (2 if full else 1) // self._hidden))
        self.rows_per_program = min(most, triton.next_power_of_2(-(-rows // num_processors)))
        fits_ahead = much and self._hidden <= 128 and self._hidden * self.rows_per_program <= 1024
        stages = 1 if full else 3 if fits_ahead else 2
        self.options = {"num_warps": _WARPS, "num_stages": stages}
        self.temperature = torch.ones((), device=keys.device)
        self.unsettled = torch.ones(rows, dtype=torch.int32, device=keys.device)
        memories = [Memory(layer[0], layer[1]) for layer in self._context]
        self.draw = Draw(memories, draw.uniform, [], draw.codes, draw.log_probs)
        self.set_context(draw.context)

    def set_context(self, context: list[Memory]) -> None:
        """Copy another context of equal shape in place."""
        for static, fresh in zip(self.draw.context, context, strict=True):
            static.keys.copy_(fresh.keys)
            static.values.copy_(fresh.values)

    def run(self) -> None:
        """Draw all positions: ``draw.codes`` and ``draw.log_probs`` are new afterwards."""
        rows = len(self.draw.uniform)
        draw_rows[(triton.cdiv(rows, self.rows_per_program),)](
            self._weights,
            self._vectors,
            self._code_table,
            self._positions,
            self._context,
            self._cache,
            self.draw.uniform,
            self.draw.codes,
            self.draw.log_probs,
            self._logits,
            self.temperature,
            self.unsettled,
            rows,
            **self.constants(),
            **self.options,
        )

    def constants(self) -> dict[str, int | float]:
        """What the kernel is compiled for."""
        fitting = _ELEMENTS // (self._hidden * self.rows_per_program)
        longest = triton.next_power_of_2(max(self._count, self._context_length))
        return {
            "LAYERS": len(self.draw.context),
            "HEADS": self._heads,
            "HEAD_SIZE": self._head_size,
            "MLP": self._mlp,
            "VOCAB": self._vocab_size,
            "CONTEXT": self._context_length,
            "COUNT": self._count,
            "ROWS": self.rows_per_program,
            "BLOCK": max(_TILE, min(fitting, longest)),
            "COLUMNS": _COLUMNS,
            "EPS": LAYER_NORM_EPS,
        }


def _pack(model: RecognitionModel, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """All matrices of a step, inputs first, in the order of use; and all vectors in float32."""
    matrices, vectors = [], []
    for block in model.decoder_blocks:
        own, other, feed = block.self_attention, block.cross_attention, block.feed_forward
        dense = [own.query, own.key, own.value, own.out, other.query, other.out, feed.up, feed.down]
        matrices += [layer.weight.T for layer in dense]
        for norm in (block.self_attention_norm, block.cross_attention_norm, block.feed_forward_norm):
            vectors += [norm.weight, norm.bias]
        vectors += [feed.up.bias, feed.down.bias]
    matrices.append(model.head.weight.T)
    vectors += [model.decoder_norm.weight, model.decoder_norm.bias, model.head.bias]
    weights = torch.cat([matrix.reshape(-1).to(dtype) for matrix in matrices])
    return weights, torch.cat([vector.reshape(-1).float() for vector in vectors])
