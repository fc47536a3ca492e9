"""Anything image-like to uint8 pixels of the size a model takes, and back.

Used by the tokenizer in this order: :func:`load_images` reads, :func:`fit_image` (or ``tiles.cut_tiles``) brings to
size, :func:`to_pil` leads back. Pixels are always uint8 arrays (height, width, channels), channels last, with 1 channel
(greyscale) or 3 (RGB).
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from daps_tokenizer.checks import check_choice
from daps_tokenizer.data.archives import read_opened
from daps_tokenizer.errors import InputError
from daps_tokenizer.images.arrays import ValueRange, as_bytes, check_value_range, is_tensor
from daps_tokenizer.images.heic import open_image

Fit = Literal["crop", "pad", "stretch"]

# 134 megapixels: any camera's photograph, and half a gigabyte at most while one is decoded.
MAX_PIXELS = 2**27

_ACCEPTED = "a path, a file's bytes, a file opened in binary mode, a PIL image, an array or tensor, or a list of these"
# These formats hold at most 16 bits a pixel, which Pillow widens to 32 when it reads them.
_FORMATS_OF_WIDENED_16_BIT = ("PNG", "PPM")
# Warning filters belong to the whole process, so only one thread at a time may exchange them.
_WARNING_FILTERS = threading.Lock()


class _Target(NamedTuple):
    """What images become, and how large they may be."""

    channels: int
    value_range: ValueRange | None
    max_pixels: int


def load_images(
    images: object, *, channels: int, value_range: ValueRange | None = None, max_pixels: int = MAX_PIXELS
) -> list[np.ndarray]:
    """Read images from whatever holds them.

    - A path (str or Path) of a file in any format that Pillow reads; of an animation, the first frame.
    - The content of such a file (bytes), or a file opened in binary mode, for example standard input, which is read to
      its end and need not be seekable.
    - A PIL image of any mode; of an animation, the current frame. It is not changed.
    - An array or a torch tensor (H, W), (H, W, C) or (B, H, W, C), or with channels first (C, H, W) or (B, C, H, W),
      where C is 1 (greyscale), 3 (RGB) or 4 (RGBA): uint8 with values 0..255, or floating-point numbers with a
      ``value_range``.
    - A list or tuple of any of these.

    EXIF orientation is applied. Transparent pixels are laid over white, 16-bit greyscale is scaled to 8 bits, colours
    become greyscale by luma (ITU-R 601) where ``channels`` is 1. Colour profiles are not applied.

    Args:
        images: one of the above.
        channels: 1 for greyscale or 3 for RGB.
        value_range: the values of black and of white in arrays and tensors of floating-point numbers, for example
            (0, 1) or (-1, 1). Each becomes the nearest of 0..255.
        max_pixels: height × width above which an image is refused, for a file before it is decoded.

    Returns:
        One array (H, W, channels), uint8, for each image, each of its own size; none of an empty list. To be read, not
        written: an array may share memory with the input.

    Raises:
        InputError: naming the file or the place in the list (counted from 1): no such file, not an image, damaged,
            wrong dtype or shape, no pixels, over the pixel limit, a type that is not listed, values beyond
            ``value_range``, floating-point numbers without one.

    >>> [image.shape for image in load_images(np.zeros((2, 28, 28, 1), np.uint8), channels=3)]
    [(28, 28, 3), (28, 28, 3)]
    >>> load_images(np.array([[0.0, 1.0]]), channels=1, value_range=(-1, 1))[0].ravel().tolist()
    [128, 255]
    """
    check_value_range(value_range)
    target = _Target(channels, value_range, max_pixels)
    if not isinstance(images, list | tuple):
        return _load(images, "the image", target)
    return [
        pixels
        for number, image in enumerate(images, start=1)
        for pixels in _load(image, f"image {number} of the list", target)
    ]


def _load(image: object, source: str, target: _Target) -> list[np.ndarray]:
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        return [_load_file(path, str(path), target)]
    if isinstance(image, bytes | bytearray | memoryview):
        return [_load_file(io.BytesIO(image), source, target)]
    if hasattr(image, "read"):
        name = getattr(image, "name", None)  # a number where the file was opened by its descriptor
        source = name if isinstance(name, str) else source
        return [_load_file(_read_all(image, source, target), source, target)]
    if isinstance(image, Image.Image):
        with _failures_as_input_errors(source, target):
            return [_decode(image, source, target)]
    if isinstance(image, np.ndarray) or is_tensor(image):
        batch = as_bytes(image, source, channels=target.channels, value_range=target.value_range)
        _check_size(batch.shape[1], batch.shape[2], source, target.max_pixels)
        if batch.shape[-1] == target.channels:
            return [np.ascontiguousarray(pixels) for pixels in batch]
        return [_convert(_from_array(pixels), target.channels) for pixels in batch]
    raise InputError(f"{source}: expected {_ACCEPTED}, not {type(image).__name__}")


def _load_file(file: Path | io.BytesIO, source: str, target: _Target) -> np.ndarray:
    with _failures_as_input_errors(source, target):
        with _WARNING_FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides, with an error
            opened = open_image(file, source)
        with opened as image:
            return _decode(image, source, target)


def _read_all(file: Any, source: str, target: _Target) -> io.BytesIO:
    """The rest of an open file, which Pillow would rewind if it could."""
    with _failures_as_input_errors(source, target):
        return io.BytesIO(read_opened(file, source))


@contextlib.contextmanager
def _failures_as_input_errors(source: str, target: _Target) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{source}: no such file; expected the path of an image") from error
    except IsADirectoryError as error:
        raise InputError(f"{source}: is a folder; expected the path of an image") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{source}: not an image, or its beginning is damaged; "
            "expected PNG, JPEG, WebP, GIF, BMP, TIFF or another format that Pillow reads"
        ) from error
    except Image.DecompressionBombError as error:  # raised while the header is read, at Pillow's own limit
        limit = min(target.max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or target.max_pixels))
        raise InputError(f"{source}: has more pixels than the limit of {limit:,}") from error
    except OSError as error:
        if error.strerror is None:  # Pillow's own, which no call of the system has failed with
            raise _damaged(source, error) from error
        raise InputError(f"{source}: cannot be read ({error.strerror}); expected the path of an image") from error
    except Exception as error:  # Pillow's readers meet damaged files with errors of almost any type
        raise _damaged(source, error) from error


def _damaged(source: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{source}: cannot be read as an image ({reason}); expected an undamaged file")


def _decode(image: Image.Image, source: str, target: _Target) -> np.ndarray:
    """A PIL image of any mode, decoded yet or not, as (H, W, channels) uint8."""
    _check_size(image.height, image.width, source, target.max_pixels)
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in _FORMATS_OF_WIDENED_16_BIT)
    if image.mode in ("I", "F") and not is_16_bit:
        kind = "32-bit integer" if image.mode == "I" else "floating-point"
        raise InputError(f"{source}: {kind} pixels have no agreed range; expected 8-bit pixels or 16-bit greyscale")
    upright = ImageOps.exif_transpose(image)
    _check_size(upright.height, upright.width, source, target.max_pixels)  # an icon's header may lie about its size
    return _convert(_to_8_bit(upright) if is_16_bit else upright, target.channels)


def _to_8_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint32)
    if "transparency" in image.info:  # a PNG may declare one grey to be transparent
        values[values == image.info["transparency"]] = 65535
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _convert(image: Image.Image, channels: int) -> np.ndarray:
    """An 8-bit PIL image laid over white, as (H, W, channels)."""
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image  # La converts to nothing else
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, straight.convert("RGBA"))
    rgb = image.convert("RGB")  # by way of RGB for every mode: grey comes through unchanged
    return np.asarray(rgb) if channels == 3 else np.asarray(rgb.convert("L"))[..., None]


def _check_size(height: int, width: int, source: str, max_pixels: int) -> None:
    if height * width == 0:
        raise InputError(f"{source}: is empty, {width}×{height} pixels; expected at least one pixel")
    if height * width > max_pixels:
        raise InputError(
            f"{source}: {width}×{height} are {height * width:,} pixels, more than the limit of {max_pixels:,}"
        )


def fit_image(image: np.ndarray, height: int, width: int, *, fit: Fit) -> np.ndarray:
    """Bring an image to the size of a model, antialiased (Lanczos).

    - ``crop`` scales until the image covers the target and keeps the centre.
    - ``pad`` scales until the image fits inside and repeats its outermost pixels on both sides: unlike black bars, that
      adds no edge which was not in the picture.
    - ``stretch`` scales height and width each by its own factor.

    Takes (H, W, C) uint8 and returns (height, width, C) uint8. An image of the right size is returned as it is, and
    pixels are not resampled where ``crop`` or ``pad`` need no scaling.

    Raises:
        InputError: a ``fit`` that is not one of these.
    """
    check_choice("fit", fit, get_args(Fit))
    if image.shape[:2] == (height, width):
        return image
    if fit == "crop":
        return _crop(image, height, width)
    if fit == "pad":
        return _pad(image, height, width)
    return _resize(image, height, width)


def _crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns, _ = image.shape
    if min(rows / height, columns / width) == 1:  # whole pixels, where ImageOps.fit may land between two
        top, left = (rows - height) // 2, (columns - width) // 2
        return image[top : top + height, left : left + width]
    fitted = ImageOps.fit(_from_array(image), (width, height), Image.Resampling.LANCZOS)
    return np.asarray(fitted).reshape(height, width, -1)


def _pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns, _ = image.shape
    scale = min(height / rows, width / columns)
    inner = _resize(image, max(1, round(rows * scale)), max(1, round(columns * scale)))
    spare_y, spare_x = height - inner.shape[0], width - inner.shape[1]
    border = ((spare_y // 2, spare_y - spare_y // 2), (spare_x // 2, spare_x - spare_x // 2), (0, 0))
    return np.pad(inner, border, mode="edge")


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    resized = _from_array(image).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized).reshape(height, width, -1)


def to_pil(image: np.ndarray) -> Image.Image:
    """An image (H, W, C) uint8 as a PIL image, mode L where C is 1 and RGB where it is 3.

    Raises:
        InputError: another dtype or shape.
    """
    if image.dtype != np.uint8:
        raise InputError(f"the image: dtype is {image.dtype}; expected uint8 with values 0..255")
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.size == 0:
        raise InputError(f"the image: shape is {image.shape}; expected (H, W, 1) or (H, W, 3)")
    return _from_array(image)


def _from_array(image: np.ndarray) -> Image.Image:
    """(H, W, C) as mode L, RGB or RGBA."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
