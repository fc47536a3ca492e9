"""The kernels of :mod:`daps_tokenizer.backends.triton_step`: all positions of some rows, drawn by one program; and the
codes of one pass, chosen where their logits are made.

Products take weights and activations in the model's precision and sum in float32; the residual stream, LayerNorm,
softmax and logits are float32. Upper-case arguments are constants that the kernel is compiled for.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _layer_norm(x, vectors, SIZE: tl.constexpr, EPS: tl.constexpr):
    """(R, H) float32 -> (R, H); scale and bias follow each other at ``vectors``."""
    columns = tl.arange(0, SIZE)
    centred = x - (tl.sum(x, axis=1) / SIZE)[:, None]
    variance = tl.sum(centred * centred, axis=1) / SIZE
    scale, bias = tl.load(vectors + columns), tl.load(vectors + SIZE + columns)
    return centred * tl.rsqrt(variance + EPS)[:, None] * scale[None, :] + bias[None, :]


@triton.jit
def _dense(x, weights, first, IN: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr):
    """(R, IN) times columns ``first`` to ``first + OUT`` of a matrix (IN, WIDTH) -> (R, OUT) float32."""
    inputs, outputs = tl.arange(0, IN), first + tl.arange(0, OUT)
    matrix = tl.load(weights + inputs[:, None] * WIDTH + outputs[None, :])
    return tl.dot(x.to(matrix.dtype), matrix, input_precision="ieee")


@triton.jit
def _attend(
    query,
    keys,
    values,
    num_pairs,
    count,
    TOTAL: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each row's query (R, H) over the first ``count`` of its own keys and values (rows, heads, TOTAL, head_size).

    Pairs of a row and a head are a batch of products with one query each. Triton spreads a batch over warps, so that
    no warp waits for another in a softmax; with three stages, tiles of keys and values are loaded ahead of their use.
    """
    PAIRS: tl.constexpr = ROWS * HEADS
    LOG2_E: tl.constexpr = 1.4426950408889634
    pairs, places, items = tl.arange(0, PAIRS), tl.arange(0, BLOCK), tl.arange(0, HEAD_SIZE)
    kind = keys.dtype.element_ty
    query = tl.reshape(query * (HEAD_SIZE**-0.5 * LOG2_E), (PAIRS, 1, HEAD_SIZE)).to(kind)
    tile = (pairs[:, None, None] * TOTAL + places[None, :, None]) * HEAD_SIZE + items[None, None, :]
    is_pair = (pairs < num_pairs)[:, None, None]
    highest = tl.full((PAIRS, 1), float("-inf"), tl.float32)
    total = tl.zeros((PAIRS, 1), tl.float32)
    summed = tl.zeros((PAIRS, 1, HEAD_SIZE), tl.float32)
    for first in range(0, count, BLOCK):
        is_place = first + places < count
        seen = is_place[None, :, None] & is_pair
        key = tl.load(keys + first * HEAD_SIZE + tile, mask=seen, other=0.0)
        value = tl.load(values + first * HEAD_SIZE + tile, mask=seen, other=0.0)
        scores = tl.dot(query, tl.trans(key, (0, 2, 1)), input_precision="ieee")
        scores = tl.where(is_place[None, None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=2))
        share = tl.exp2(scores - higher[:, :, None])
        decay = tl.exp2(highest - higher)
        total = total * decay + tl.sum(share, axis=2)
        summed = summed * decay[:, :, None] + tl.dot(share.to(kind), value, input_precision="ieee")
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
    unsettled,
    num_rows,
    LAYERS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    MLP: tl.constexpr,
    VOCAB: tl.constexpr,
    CONTEXT: tl.constexpr,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    EPS: tl.constexpr,
):
    """Draw ``COUNT`` codes for each row, if one of the program's is unsettled.

    See :class:`~daps_tokenizer.backends.triton_step.FusedDraw` for what the arguments hold.
    """
    HIDDEN: tl.constexpr = HEADS * HEAD_SIZE
    WIDE: tl.constexpr = HIDDEN * MLP
    SQUARE: tl.constexpr = HIDDEN * HIDDEN
    LAYER_WEIGHTS: tl.constexpr = 6 * SQUARE + 2 * HIDDEN * WIDE
    LAYER_VECTORS: tl.constexpr = 7 * HIDDEN + WIDE
    UP_COLUMNS: tl.constexpr = COLUMNS if COLUMNS < WIDE else WIDE
    LOGIT_COLUMNS: tl.constexpr = COLUMNS if COLUMNS < VOCAB else VOCAB

    first_row = tl.program_id(0).to(tl.int64) * ROWS
    rows = first_row + tl.arange(0, ROWS)
    is_row = rows < num_rows
    num_pairs = (num_rows - tl.program_id(0) * ROWS) * HEADS  # of a row and a head
    hidden, vocab = tl.arange(0, HIDDEN), tl.arange(0, VOCAB)
    sharpness = tl.load(temperature)
    memory = num_rows.to(tl.int64) * HIDDEN  # values of all rows at one place
    # Where a row's new key and value go, but for the position.
    own = (rows[:, None] * HEADS + (hidden // HEAD_SIZE)[None, :]) * (COUNT * HEAD_SIZE) + (hidden % HEAD_SIZE)[None, :]
    previous = tl.zeros((ROWS,), tl.int64)
    if tl.sum(tl.load(unsettled + rows, mask=is_row, other=0), axis=0) == 0:
        return
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
            keys, values = cached_keys + first_row * COUNT * HIDDEN, cached_values + first_row * COUNT * HIDDEN
            attended = _attend(query, keys, values, num_pairs, t + 1, COUNT, HEADS, HEAD_SIZE, ROWS, BLOCK)
            x += _dense(attended, w + 3 * SQUARE, 0, HIDDEN, HIDDEN, HIDDEN)

            query = _dense(_layer_norm(x, v + 2 * HIDDEN, HIDDEN, EPS), w + 4 * SQUARE, 0, HIDDEN, HIDDEN, HIDDEN)
            keys, values = context_keys + first_row * CONTEXT * HIDDEN, context_values + first_row * CONTEXT * HIDDEN
            attended = _attend(query, keys, values, num_pairs, CONTEXT, CONTEXT, HEADS, HEAD_SIZE, ROWS, BLOCK)
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
        chosen = tl.argmax(logit, axis=1).to(tl.int32)
        if sharpness > 0.0:
            probability = tl.exp(centred / tl.maximum(sharpness, 1e-6))
            probability = probability / tl.sum(probability, axis=1)[:, None]
            cumulative = tl.cumsum(probability, axis=1)
            whole = tl.sum(tl.where(vocab[None, :] == VOCAB - 1, cumulative, 0.0), axis=1)
            draw = tl.load(uniform + rows * COUNT + t, mask=is_row, other=0.0) * whole
            below = tl.sum((cumulative <= draw[:, None]).to(tl.int32), axis=1)
            chosen = tl.minimum(below, VOCAB - 1)
        chosen_logit = tl.sum(tl.where(vocab[None, :] == chosen[:, None], centred, 0.0), axis=1)
        log_q = chosen_logit - tl.log(tl.sum(tl.exp(centred), axis=1))
        previous = chosen.to(tl.int64)
        tl.store(codes + rows * COUNT + t, previous, mask=is_row)
        tl.store(log_probs + rows * COUNT + t, log_q, mask=is_row)
        tl.debug_barrier()  # the logits are read before the next step overwrites them


@triton.jit
def _some_logits(x, weights, bias, first, HIDDEN: tl.constexpr, VOCAB: tl.constexpr, COLUMNS: tl.constexpr):
    """Logits of the codes ``first`` to ``first + COLUMNS`` (R, COLUMNS), by the head's weights (V, H)."""
    codes, inputs = first + tl.arange(0, COLUMNS), tl.arange(0, HIDDEN)
    is_code = codes < VOCAB
    matrix = tl.load(weights + codes[None, :] * HIDDEN + inputs[:, None], mask=is_code[None, :], other=0.0)
    logit = tl.dot(x, matrix, input_precision="ieee") + tl.load(bias + codes, mask=is_code, other=0.0)[None, :]
    return tl.where(is_code[None, :], logit, float("-inf"))


@triton.jit(do_not_specialize=["num_rows"])
def choose_rows(
    hidden,
    weights,
    bias,
    uniform,
    temperature,
    codes,
    log_probs,
    num_rows,
    HIDDEN: tl.constexpr,
    VOCAB: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GREEDY: tl.constexpr,
):
    """One code for each row of hidden states (rows, H), as daps_tokenizer.model.sampling.choose_codes, with its log q.

    Logits are made ``COLUMNS`` at a time and not kept: once for the highest and the sums, and for samples once more.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_row = rows < num_rows
    x = tl.load(hidden + rows[:, None] * HIDDEN + tl.arange(0, HIDDEN)[None, :], mask=is_row[:, None], other=0.0)
    x = x.to(weights.dtype.element_ty)
    sharpness = tl.load(temperature)
    width = tl.maximum(sharpness, 1e-6)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    best = tl.zeros((ROWS,), tl.int32)
    total = tl.zeros((ROWS,), tl.float32)  # of exp(logit − highest), at temperature 1
    whole = tl.zeros((ROWS,), tl.float32)  # and at the temperature asked for
    for first in range(0, VOCAB, COLUMNS):
        logit = _some_logits(x, weights, bias, first, HIDDEN, VOCAB, COLUMNS)
        top = tl.max(logit, axis=1)
        best = tl.where(top > highest, first + tl.argmax(logit, axis=1).to(tl.int32), best)
        higher = tl.maximum(highest, top)
        centred = logit - higher[:, None]
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(centred), axis=1)
        whole = whole * tl.exp((highest - higher) / width) + tl.sum(tl.exp(centred / width), axis=1)
        highest = higher
    chosen, chosen_logit = best, highest
    if not GREEDY:
        goal = tl.load(uniform + rows, mask=is_row, other=0.0) * whole
        before = tl.zeros((ROWS,), tl.float32)
        below = tl.zeros((ROWS,), tl.int32)
        drawn_logit = tl.zeros((ROWS,), tl.float32)
        for first in range(0, VOCAB, COLUMNS):
            logit = _some_logits(x, weights, bias, first, HIDDEN, VOCAB, COLUMNS)
            probability = tl.exp((logit - highest[:, None]) / width)
            cumulative = before[:, None] + tl.cumsum(probability, axis=1)
            number = first + tl.arange(0, COLUMNS)
            below += tl.sum(((cumulative <= goal[:, None]) & (number < VOCAB)[None, :]).to(tl.int32), axis=1)
            # The highest, not the block's sum, which rounds differently: so the count stays once a code is found.
            before = tl.max(cumulative, axis=1)
            is_drawn = number[None, :] == below[:, None]  # in the block that holds the code
            drawn_logit += tl.sum(tl.where(is_drawn, logit, 0.0), axis=1)
        # Where rounding puts the goal beyond the last sum, as it may for a uniform number next to 1, no code is found.
        drawn = tl.where(below < VOCAB, below, best)
        drawn_logit = tl.where(below < VOCAB, drawn_logit, highest)
        chosen = tl.where(sharpness > 0.0, drawn, best)
        chosen_logit = tl.where(sharpness > 0.0, drawn_logit, highest)
    tl.store(codes + rows, chosen.to(tl.int64), mask=is_row)
    tl.store(log_probs + rows, chosen_logit - highest - tl.log(total), mask=is_row)
