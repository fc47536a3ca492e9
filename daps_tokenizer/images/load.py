"""Anything image-like to uint8 pixels of the size a model takes, and back.

Used by the tokenizer in this order: :func:`load_images` reads, :func:`fit_image` (or ``tiles.cut_tiles``) brings to
size, :func:`to_pil` leads back. Pixels are always uint8 arrays (height, width, channels), channels last, with 1 channel
(greyscale) or 3 (RGB).
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import platform
import threading
import warnings
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from daps_tokenizer.checks import check_choice
from daps_tokenizer.data.archives import read_opened
from daps_tokenizer.errors import InputError, reason_of
from daps_tokenizer.files import open_regular_file
from daps_tokenizer.images.arrays import ValueRange, as_bytes, check_value_range, is_tensor
from daps_tokenizer.images.formats import open_image, webp_pixels

Fit = Literal["crop", "pad", "stretch"]

MAX_PIXELS = 2**27  # 134 megapixels, any camera's photograph
_MOST_BYTES = 2**29  # of a file
# An image above this size that is to be fitted is halved while it is read, as long as it stays larger than needed.
_LARGE = 2**25
_LEAST_SHARE = 4  # of a side to that of the model, before it is halved
# What reading an image takes, in bytes a pixel, measured at 33 to 134 megapixels: Pillow's image, the decoder's own
# memory, and the array. Of a progressive JPEG, the decoder keeps all coefficients.
_BYTES_PER_PIXEL = {"WEBP": 19, "AVIF": 13, "HEIF": 13, "TIFF": 8}
_OF_PROGRESSIVE_JPEG, _OF_OTHERS = 8, 5
_MOST_MEMORY = 700_000_000  # of one image
_MEMORY_AT_ONCE = 500_000_000  # of all that the threads of a process read; an image that takes more is read alone
_WORTH_GIVING_BACK = 50_000_000
_STRIP = 2**20  # pixels that are converted together

_ACCEPTED = "a path, a file's bytes, a file opened in binary mode, a PIL image, an array or tensor, or a list of these"
# These formats hold at most 16 bits a pixel, which Pillow widens to 32 when it reads them.
_FORMATS_OF_WIDENED_16_BIT = ("PNG", "PPM")
_ORIENTATION = 0x0112  # of EXIF


class Fitted(NamedTuple):
    """The size that images are brought to, and how (:func:`fit_image`)."""

    height: int
    width: int
    fit: Fit


class _Target(NamedTuple):
    """What images become, and how large they may be."""

    channels: int
    value_range: ValueRange | None
    max_pixels: int
    fitted: Fitted | None

    def finish(self, image: np.ndarray) -> np.ndarray:
        """An image (H, W, channels) at its final size."""
        return image if self.fitted is None else fit_image(image, *self.fitted[:2], fit=self.fitted.fit)


class _InFlight:
    """The memory of images that are read at this moment, by all threads of the process."""

    def __init__(self) -> None:
        self._bytes = 0
        self._changed = threading.Condition()
        self.warning_filters = threading.Lock()  # they belong to the whole process: one thread at a time changes them

    @contextlib.contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        """Wait until there is room for this many bytes."""
        size = min(size, _MEMORY_AT_ONCE)
        with self._changed:
            self._changed.wait_for(lambda: self._bytes + size <= _MEMORY_AT_ONCE)
            self._bytes += size
        try:
            yield
        finally:
            if size > _WORTH_GIVING_BACK:
                _give_back_memory()
            with self._changed:
                self._bytes -= size
                self._changed.notify_all()


def _give_back_memory() -> None:
    """Return freed memory to the system: glibc keeps some for each thread, gigabytes of eight that read images."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


_in_flight = _InFlight()
if hasattr(os, "register_at_fork"):  # a forked process has none of the threads that would release what is held
    os.register_at_fork(after_in_child=_in_flight.__init__)  # type: ignore[misc]


def load_images(
    images: object,
    *,
    channels: int,
    value_range: ValueRange | None = None,
    max_pixels: int = MAX_PIXELS,
    fitted: Fitted | None = None,
) -> list[np.ndarray]:
    """Read images from whatever holds them.

    - A path (str or Path) of a file: PNG, JPEG, WebP, GIF, BMP, TIFF, PPM, AVIF or HEIC; of an animation, the first
      frame.
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
        fitted: the size that each is brought to as soon as it is read, so that memory holds one at its own size. Of an
            image of more than 33 megapixels, sides that are at least four times as long as needed are then halved as it
            is read, by averages, or for JPEG by its decoder.

    Returns:
        One array (H, W, channels), uint8, for each image, of its own size or as ``fitted``; none of an empty list. They
        are to be read, not written: an array may share memory with the input.

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
    target = _Target(channels, value_range, max_pixels, fitted)
    if not isinstance(images, list | tuple):
        return _load(images, "the image", target)
    return [
        pixels
        for number, image in enumerate(images, start=1)
        for pixels in _load(image, f"image {number} of the list", target)
    ]


def _load(image: object, source: str, target: _Target) -> list[np.ndarray]:
    if isinstance(image, str | os.PathLike):
        source = os.fspath(image)
        with (
            _failures_as_input_errors(source, target),
            open_regular_file(source, most_bytes=_MOST_BYTES) as file,
        ):
            return [_decode_file(file, source, target)]
    if hasattr(image, "read"):
        name = getattr(image, "name", None)  # a number where the file was opened by its descriptor
        source = name if isinstance(name, str) else source
        with _failures_as_input_errors(source, target):
            image = read_opened(image, source)  # the rest of it, as Pillow would rewind it if it could
    if isinstance(image, bytes | bytearray | memoryview):
        with _failures_as_input_errors(source, target):
            return [_decode_file(io.BytesIO(image), source, target)]
    if isinstance(image, Image.Image):
        with _failures_as_input_errors(source, target):
            return [_decode(image, source, target)]
    if isinstance(image, np.ndarray) or is_tensor(image):
        batch = as_bytes(image, source, channels=target.channels, value_range=target.value_range)
        _check_size(batch.shape[1], batch.shape[2], source, target.max_pixels)
        if batch.shape[-1] == target.channels:
            return [target.finish(np.ascontiguousarray(pixels)) for pixels in batch]
        return [target.finish(_convert(_from_array(pixels), target.channels)) for pixels in batch]
    raise InputError(f"{source}: expected {_ACCEPTED}, not {type(image).__name__}")


def _decode_file(file: BinaryIO, source: str, target: _Target) -> np.ndarray:
    with contextlib.ExitStack() as held:
        early = webp_pixels(file) * _BYTES_PER_PIXEL["WEBP"]
        if early > _MOST_MEMORY:
            raise InputError(
                f"{source}: has more pixels than the limit of {_MOST_MEMORY // _BYTES_PER_PIXEL['WEBP']:,}"
            )
        held.enter_context(_in_flight.reserved(early))
        with _in_flight.warning_filters, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides, with an error
            image = held.enter_context(open_image(file, source))
        limit = _MOST_MEMORY // _bytes_per_pixel(image)
        _check_size(image.height, image.width, source, min(target.max_pixels, limit))
        if _halves(image, target) == (2, 2):
            image.draft(None, (image.width // 2, image.height // 2))  # which only JPEG has
        return _decode(image, source, target, is_own=True, is_reserved=early > 0)


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
            "expected PNG, JPEG, WebP, GIF, BMP, TIFF, PPM, AVIF or HEIC"
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
    return InputError(f"{source}: cannot be read as an image ({reason_of(error)}); expected an undamaged file")


def _decode(
    image: Image.Image, source: str, target: _Target, *, is_own: bool = False, is_reserved: bool = False
) -> np.ndarray:
    """A PIL image of any mode, decoded yet or not, as (H, W, channels) uint8 of its final size; closed if is_own."""
    _check_size(image.height, image.width, source, target.max_pixels)
    if image.mode in ("I", "F") and not _is_16_bit(image):
        kind = "32-bit integer" if image.mode == "I" else "floating-point"
        raise InputError(f"{source}: {kind} pixels have no agreed range; expected 8-bit pixels or 16-bit greyscale")
    with _in_flight.reserved(0 if is_reserved else image.height * image.width * _bytes_per_pixel(image)):
        image.load()
        _check_size(image.height, image.width, source, target.max_pixels)  # a header may lie about the size
        pixels = _convert(image, target.channels, _halves(image, target))
        orientation = image.getexif().get(_ORIENTATION, 1)
        if is_own:
            image.close()  # which frees its pixels
        return target.finish(_upright(pixels, orientation))


def _bytes_per_pixel(image: Image.Image) -> int:
    is_progressive = image.format in ("JPEG", "MPO") and "progressive" in image.info
    return _OF_PROGRESSIVE_JPEG if is_progressive else _BYTES_PER_PIXEL.get(image.format or "", _OF_OTHERS)


def _halves(image: Image.Image, target: _Target) -> tuple[int, int]:
    """By what width and height of an image are divided while it is read: 1, or 2 where it is large and to be fitted."""
    if target.fitted is None or image.height * image.width <= _LARGE:
        return 1, 1
    needed = _LEAST_SHARE * max(target.fitted.height, target.fitted.width)  # it may yet be turned
    return 1 + (image.width >= needed), 1 + (image.height >= needed)


def _convert(image: Image.Image, channels: int, halves: tuple[int, int] = (1, 1)) -> np.ndarray:
    """A PIL image as (H, W, channels), strip by strip, as each step takes as much memory again as what it converts."""
    rows, is_16_bit = max(1, _STRIP // image.width) * 2, _is_16_bit(image)
    if image.height <= rows:
        return _convert_strip(image, channels, halves, is_16_bit)
    width, height = (-(-size // half) for size, half in zip(image.size, halves, strict=True))
    pixels = np.empty((height, width, channels), np.uint8)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        converted = _convert_strip(strip, channels, halves, is_16_bit)
        pixels[top // halves[1] :][: len(converted)] = converted
    return pixels


def _convert_strip(image: Image.Image, channels: int, halves: tuple[int, int], is_16_bit: bool) -> np.ndarray:
    if is_16_bit:
        image = _to_8_bit(image)
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image  # La converts to nothing else
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, straight.convert("RGBA"))
    # By way of RGB for every mode: grey comes through unchanged. Converting RGB would copy it.
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if halves != (1, 1):
        rgb = rgb.reduce(halves)
    return np.asarray(rgb) if channels == 3 else np.asarray(rgb.convert("L"))[..., None]


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in _FORMATS_OF_WIDENED_16_BIT)


def _to_8_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint32)
    if "transparency" in image.info:  # a PNG may declare one grey to be transparent
        values[values == image.info["transparency"]] = 65535
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as EXIF says that they are to be looked at."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


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
