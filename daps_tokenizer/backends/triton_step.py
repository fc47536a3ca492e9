"""The whole autoregressive loop as one Triton kernel: a program draws all positions of its rows without leaving the GPU.

A row is a window, or an item where items are not cut. Rows do not depend on each other, so no program waits for
another: 16 windows of one image run on 16 multiprocessors, large batches put up to 16 rows on each. Weights are read
from the L2 cache once a step and program; docs/gpu.md counts what that costs, and why they do not stay in shared memory.

Products take weights and activations in the model's precision and sum in float32; the residual stream, LayerNorm,
softmax and logits are float32. Not measured on a GPU; compared with the eager loop in Triton's interpreter, and compiled
for compute capability 9.0 (tests/test_triton_step.py).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import Draw
from daps_tokenizer.model.transformer import LAYER_NORM_EPS, Memory

_MAX_ROWS = 16  # of one program: the height of a tensor core's tile
_MAX_VOCAB = 4096  # logits of a row are held at once
_ELEMENTS = 8192  # of the keys that a program holds at once: 32 registers a thread
_WARPS = 8
_COLUMNS = 128  # of a weight matrix that are multiplied at once


@triton.jit
def _layer_norm(x, vectors, SIZE: tl.constexpr, EPS: tl.constexpr):  # noqa: N803 - Triton's constants are upper case
    """(R, H) float32 -> (R, H); scale and bias follow each other at ``vectors``."""
    columns = tl.arange(0, SIZE)
    centred = x - (tl.sum(x, axis=1) / SIZE)[:, None]
    variance = tl.sum(centred * centred, axis=1) / SIZE
    scale, bias = tl.load(vectors + columns), tl.load(vectors + SIZE + columns)
    return centred * tl.rsqrt(variance + EPS)[:, None] * scale[None, :] + bias[None, :]


@triton.jit
def _dense(x, weights, first, IN: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr):  # noqa: N803
    """(R, IN) times columns ``first`` to ``first + OUT`` of a matrix (IN, WIDTH) -> (R, OUT) float32."""
    inputs, outputs = tl.arange(0, IN), first + tl.arange(0, OUT)
    matrix = tl.load(weights + inputs[:, None] * WIDTH + outputs[None, :])
    return tl.dot(x.to(matrix.dtype), matrix, input_precision="ieee")


@triton.jit
def _attend(
    query,
    keys,
    values,
    rows,
    is_row,
    count,
    TOTAL: tl.constexpr,  # noqa: N803
    HEADS: tl.constexpr,  # noqa: N803
    HEAD_SIZE: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """Each row's query (R, H) over the first ``count`` of its own keys and values (rows, heads, TOTAL, head_size)."""
    query = tl.reshape(query, (ROWS, 1, HEADS, HEAD_SIZE)) * (HEAD_SIZE**-0.5)
    heads = tl.arange(0, HEADS)[None, None, :, None]
    items = tl.arange(0, HEAD_SIZE)[None, None, None, :]
    places = tl.arange(0, BLOCK)
    start = ((rows[:, None, None, None] * HEADS + heads) * TOTAL) * HEAD_SIZE + items
    highest = tl.full((ROWS, HEADS), float("-inf"), tl.float32)
    total = tl.zeros((ROWS, HEADS), tl.float32)
    summed = tl.zeros((ROWS, HEADS, HEAD_SIZE), tl.float32)
    for first in range(0, count, BLOCK):
        place = (first + places)[None, :, None, None]
        seen = (place < count) & is_row[:, None, None, None]
        offsets = start + place * HEAD_SIZE
        key = tl.load(keys + offsets, mask=seen, other=0.0).to(tl.float32)
        value = tl.load(values + offsets, mask=seen, other=0.0).to(tl.float32)
        scores = tl.sum(query * key, axis=3)
        scores = tl.where((first + places)[None, :, None] < count, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        share = tl.exp(scores - higher[:, None, :])
        decay = tl.exp(highest - higher)
        total = total * decay + tl.sum(share, axis=1)
        summed = summed * decay[:, :, None] + tl.sum(share[:, :, :, None] * value, axis=1)
        highest = higher
    return tl.reshape(summed / total[:, :, None], (ROWS, HEADS * HEAD_SIZE))


@triton.jit(do_not_specialize=["num_rows"])  # a single row would become a constant, and compile anew
def draw_rows(
    weights,
    vectors,
    code_table,
    positions,
    context,
    cache,
    uniform,
    codes,
    log_probs,
    logits,
    temperature,
    num_rows,
    LAYERS: tl.constexpr,  # noqa: N803
    HEADS: tl.constexpr,  # noqa: N803
    HEAD_SIZE: tl.constexpr,  # noqa: N803
    MLP: tl.constexpr,  # noqa: N803
    VOCAB: tl.constexpr,  # noqa: N803
    CONTEXT: tl.constexpr,  # noqa: N803
    COUNT: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    EPS: tl.constexpr,  # noqa: N803
):
    """Draw ``COUNT`` codes for each row; see :class:`FusedDraw` for what the arguments hold."""
    HIDDEN: tl.constexpr = HEADS * HEAD_SIZE  # noqa: N806
    WIDE: tl.constexpr = HIDDEN * MLP  # noqa: N806
    SQUARE: tl.constexpr = HIDDEN * HIDDEN  # noqa: N806
    LAYER_WEIGHTS: tl.constexpr = 6 * SQUARE + 2 * HIDDEN * WIDE  # noqa: N806
    LAYER_VECTORS: tl.constexpr = 7 * HIDDEN + WIDE  # noqa: N806
    UP_COLUMNS: tl.constexpr = COLUMNS if COLUMNS < WIDE else WIDE  # noqa: N806
    LOGIT_COLUMNS: tl.constexpr = COLUMNS if COLUMNS < VOCAB else VOCAB  # noqa: N806

    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_row = rows < num_rows
    hidden, vocab = tl.arange(0, HIDDEN), tl.arange(0, VOCAB)
    sharpness = tl.load(temperature)
    memory = num_rows.to(tl.int64) * HIDDEN  # values of all rows at one place
    # Where a row's new key and value go, but for the position.
    own = (rows[:, None] * HEADS + (hidden // HEAD_SIZE)[None, :]) * (COUNT * HEAD_SIZE) + (hidden % HEAD_SIZE)[None, :]
    previous = tl.zeros((ROWS,), tl.int64)
    for t in range(0, COUNT):
        table = code_table + previous[:, None] * HIDDEN + hidden[None, :]
        x = tl.load(table).to(tl.float32) + tl.load(positions + t * HIDDEN + hidden).to(tl.float32)[None, :]
        for layer in range(0, LAYERS):
            w = weights + layer * LAYER_WEIGHTS
            v = vectors + layer * LAYER_VECTORS
            cached_keys = cache + layer * 2 * COUNT * memory
            cached_values = cached_keys + COUNT * memory
            context_keys = context + layer * 2 * CONTEXT * memory
            context_values = context_keys + CONTEXT * memory

            normed = _layer_norm(x, v, HIDDEN, EPS)
            query = _dense(normed, w, 0, HIDDEN, HIDDEN, HIDDEN)
            key = _dense(normed, w + SQUARE, 0, HIDDEN, HIDDEN, HIDDEN)
            value = _dense(normed, w + 2 * SQUARE, 0, HIDDEN, HIDDEN, HIDDEN)
            here = own + t * HEAD_SIZE
            tl.store(cached_keys + here, key.to(cache.dtype.element_ty), mask=is_row[:, None])
            tl.store(cached_values + here, value.to(cache.dtype.element_ty), mask=is_row[:, None])
            tl.debug_barrier()  # the whole program reads what each of its threads wrote
            attended = _attend(
                query, cached_keys, cached_values, rows, is_row, t + 1, COUNT, HEADS, HEAD_SIZE, ROWS, BLOCK
            )
            x += _dense(attended, w + 3 * SQUARE, 0, HIDDEN, HIDDEN, HIDDEN)

            query = _dense(_layer_norm(x, v + 2 * HIDDEN, HIDDEN, EPS), w + 4 * SQUARE, 0, HIDDEN, HIDDEN, HIDDEN)
            attended = _attend(
                query, context_keys, context_values, rows, is_row, CONTEXT, CONTEXT, HEADS, HEAD_SIZE, ROWS, BLOCK
            )
            x += _dense(attended, w + 5 * SQUARE, 0, HIDDEN, HIDDEN, HIDDEN)

            normed = _layer_norm(x, v + 4 * HIDDEN, HIDDEN, EPS)
            up, down = w + 6 * SQUARE, w + 6 * SQUARE + HIDDEN * WIDE
            added = tl.zeros((ROWS, HIDDEN), tl.float32) + tl.load(v + 6 * HIDDEN + WIDE + hidden)[None, :]
            for first in range(0, WIDE, UP_COLUMNS):
                bias = tl.load(v + 6 * HIDDEN + first + tl.arange(0, UP_COLUMNS))
                wide = _dense(normed, up, first, HIDDEN, WIDE, UP_COLUMNS) + bias[None, :]
                added += _dense(tl.maximum(wide, 0.0), down + first * HIDDEN, 0, UP_COLUMNS, HIDDEN, HIDDEN)
            x += added

        last = vectors + LAYERS * LAYER_VECTORS
        normed = _layer_norm(x, last, HIDDEN, EPS)
        for first in range(0, VOCAB, LOGIT_COLUMNS):
            columns = first + tl.arange(0, LOGIT_COLUMNS)
            bias = tl.load(last + 2 * HIDDEN + columns)
            some = _dense(normed, weights + LAYERS * LAYER_WEIGHTS, first, HIDDEN, VOCAB, LOGIT_COLUMNS) + bias[None, :]
            tl.store(logits + rows[:, None] * VOCAB + columns[None, :], some, mask=is_row[:, None])
        tl.debug_barrier()
        logit = tl.load(logits + rows[:, None] * VOCAB + vocab[None, :], mask=is_row[:, None], other=0.0)

        # As daps_tokenizer.model.sampling.choose_codes.
        centred = logit - tl.max(logit, axis=1)[:, None]
        probability = tl.exp(centred / tl.maximum(sharpness, 1e-6))
        probability = probability / tl.sum(probability, axis=1)[:, None]
        cumulative = tl.cumsum(probability, axis=1)
        whole = tl.sum(tl.where(vocab[None, :] == VOCAB - 1, cumulative, 0.0), axis=1)
        draw = tl.load(uniform + rows * COUNT + t, mask=is_row, other=0.0) * whole
        below = tl.sum((cumulative <= draw[:, None]).to(tl.int32), axis=1)
        drawn = tl.minimum(below, VOCAB - 1)
        chosen = tl.where(sharpness > 0.0, drawn, tl.argmax(logit, axis=1).to(tl.int32))
        chosen_logit = tl.sum(tl.where(vocab[None, :] == chosen[:, None], centred, 0.0), axis=1)
        log_q = chosen_logit - tl.log(tl.sum(tl.exp(centred), axis=1))
        previous = chosen.to(tl.int64)
        tl.store(codes + rows * COUNT + t, previous, mask=is_row)
        tl.store(log_probs + rows * COUNT + t, log_q, mask=is_row)
        tl.debug_barrier()  # the logits are read before the next step overwrites them


def reason_not_to_fuse(model: RecognitionModel) -> str:
    """What of a model the kernel cannot do, or an empty string."""
    block = model.decoder_blocks[0]
    sizes = {
        "hidden size": block.feed_forward.up.in_features,
        "heads": block.self_attention.num_heads,
        "feed-forward size": block.feed_forward.up.out_features,
        "vocabulary": model.vocab_size,
    }
    odd = [f"{name} {size}" for name, size in sizes.items() if size & (size - 1) or size > _MAX_VOCAB]
    if odd:
        return f"{odd[0]} is not a power of two up to {_MAX_VOCAB}"
    return "" if sizes["hidden size"] >= 16 and model.vocab_size >= 16 else "the model is too small"


class FusedDraw:
    """A :class:`~daps_tokenizer.model.sampling.Draw` by one launch; used like ``SteppedDraw``."""

    def __init__(self, model: RecognitionModel, draw: Draw, *, num_processors: int) -> None:
        """Prepare to draw with what is in ``draw`` then.

        Args:
            model: of which :func:`reason_not_to_fuse` says nothing.
            draw: contexts and uniforms; its context is replaced by a copy, for :meth:`set_context` to fill.
            num_processors: multiprocessors of the GPU, among which rows are spread.
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
        self._mlp = model.decoder_blocks[0].feed_forward.up.out_features // (self._heads * self._head_size)
        self._logits = torch.empty(rows, model.vocab_size, device=keys.device)
        self._vocab_size = model.vocab_size
        self.rows_per_program = min(_MAX_ROWS, triton.next_power_of_2(-(-rows // num_processors)))
        self.temperature = torch.ones((), device=keys.device)
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
            rows,
            **self.constants(),
            num_warps=_WARPS,
        )

    def constants(self) -> dict[str, int | float]:
        """What the kernel is compiled for."""
        hidden = self._heads * self._head_size
        fitting = max(1, _ELEMENTS // (hidden * self.rows_per_program))
        return {
            "LAYERS": len(self.draw.context),
            "HEADS": self._heads,
            "HEAD_SIZE": self._head_size,
            "MLP": self._mlp,
            "VOCAB": self._vocab_size,
            "CONTEXT": self._context_length,
            "COUNT": self._count,
            "ROWS": self.rows_per_program,
            "BLOCK": min(fitting, triton.next_power_of_2(max(self._count, self._context_length))),
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
