"""Arrays and tensors, of bytes or of floating-point numbers, channels first or last, as uint8 (B, H, W, C)."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from daps_tokenizer.errors import InputError

ValueRange = tuple[float, float]

_SHAPES = "(H, W), (H, W, C) or (B, H, W, C) with C = 1, 3 or 4, or the same with channels first"
_CHANNELS = (1, 3, 4)
_LEAST_SPAN, _MOST_SPAN = 1e-30, 1e30  # of a range of values: float32 can be scaled with what is in between


def is_tensor(value: object) -> bool:
    """Whether it is a tensor of PyTorch, which need not be installed to ask."""
    return type(value).__module__.startswith("torch") and hasattr(value, "detach")


def as_bytes(array: Any, source: str, *, channels: int, value_range: ValueRange | None) -> np.ndarray:
    """Images as uint8 with channels last, (B, H, W, C), where C is 1, 3 or 4.

    Args:
        array: an array or a tensor, (H, W), (H, W, C), (C, H, W), (B, H, W, C) or (B, C, H, W). What can be read with
            channels first or last is read with channels last if it is an array, and refused if it is a tensor.
        source: what errors call it.
        channels: of the model: three or four pictures (H, W) for a model of greys are not taken for one in colour.
        value_range: of floating-point numbers, the values of black and of white; None for uint8.

    Raises:
        InputError: another shape or dtype, floating-point numbers without a range, beyond it, or not finite.
    """
    # By its name in both, which says nothing of an array's byte order.
    dtype = str(array.dtype).removeprefix("torch.") if is_tensor(array) else array.dtype.name
    is_float = dtype.startswith(("float", "bfloat"))
    if dtype != "uint8" and not is_float:
        raise InputError(f"{source}: dtype is {dtype}; expected uint8 with values 0..255")
    if is_tensor(array):
        values = array.detach().cpu()
        # NumPy has no bfloat16.
        batch = _channels_last((values.float() if dtype == "bfloat16" else values).numpy(), source, channels, True)
    else:
        batch = _channels_last(array, source, channels, False)
    if is_float:
        return _scaled(batch, dtype, source, value_range)
    if value_range is not None:
        raise InputError(f"{source}: dtype is uint8, whose values are 0..255; leave value_range out")
    return batch


def check_value_range(value_range: object) -> None:
    """Refuse what is neither None nor two numbers, the lower one first.

    Raises:
        InputError: naming it.
    """
    if value_range is None:
        return
    ends = value_range if isinstance(value_range, tuple | list) and len(value_range) == 2 else (math.nan, math.nan)
    is_finite = all(isinstance(end, Real) and math.isfinite(end) for end in ends)
    if not is_finite or not _LEAST_SPAN <= ends[1] - ends[0] <= _MOST_SPAN:
        raise InputError(
            "value_range must be the values of black and of white, such as (0, 1) or (-1, 1), not "
            f"{' '.join(repr(value_range).split())}"
        )


def _scaled(batch: np.ndarray, dtype: str, source: str, value_range: ValueRange | None) -> np.ndarray:
    """Floating-point numbers as the nearest of 0..255."""
    if batch.size == 0:
        return batch.astype(np.uint8)
    least, most = float(batch.min()), float(batch.max())
    if not (math.isfinite(least) and math.isfinite(most)):
        raise InputError(f"{source}: holds numbers that are not finite; expected pixels")
    if value_range is None:
        likely = "(-1, 1)" if least < 0 else "(0, 1)" if most <= 1 else "(0, 255)"
        raise InputError(
            f"{source}: dtype is {dtype}, with values from {least:g} to {most:g}; expected uint8 with values 0..255, "
            f"or the values of black and white: write tok.encode(images, value_range={likely})"
        )
    black, white = value_range
    levels = np.rint((batch.astype(np.result_type(batch, np.float32)) - black) * (255 / (white - black)))
    if levels.min() < 0 or levels.max() > 255:
        raise InputError(
            f"{source}: values from {least:g} to {most:g} are outside value_range=({black:g}, {white:g}); clip them, "
            "or name the range that they have"
        )
    return levels.astype(np.uint8)


def _channels_last(array: np.ndarray, source: str, channels: int, is_tensor: bool) -> np.ndarray:
    """The array as (B, H, W, C)."""
    if array.size == 0 and not (array.ndim == 4 and all(array.shape[1:])):
        raise InputError(f"{source}: is empty, shape {array.shape}; expected {_SHAPES}")
    if array.ndim == 2:
        return array[None, :, :, None]
    if array.ndim in (3, 4):
        last, first = array.shape[-1] in _CHANNELS, array.shape[-3] in _CHANNELS
        if last and first and is_tensor:
            raise InputError(
                f"{source}: shape {array.shape} can be read with channels first or last; "
                "expected a PIL image, or a NumPy array, which is read with channels last then"
            )
        if last or first:
            if array.ndim == 3 and not last and channels == 1 < array.shape[0]:
                raise InputError(
                    f"{source}: shape {array.shape} can be read as {array.shape[0]} images (H, W) or as one with "
                    "channels first; expected (B, H, W, 1) or (1, C, H, W)"
                )
            placed = array if last else np.moveaxis(array, -3, -1)
            return placed if array.ndim == 4 else placed[None]
    raise InputError(f"{source}: shape {array.shape} is not that of images; expected {_SHAPES}")
