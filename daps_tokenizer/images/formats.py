"""Which image files are read: an explicit list of formats, since Pillow also reads many that nobody looks at.

One of those, EPS, starts Ghostscript; a file's first bytes choose the reader, whatever its name is.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from daps_tokenizer.errors import InputError
from daps_tokenizer.install import install_command

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def open_image(file: BinaryIO, source: str) -> Image.Image:
    """``Image.open`` of one of :data:`FORMATS`, or of HEIC, which telephones write and Pillow does not read.

    Raises:
        UnidentifiedImageError: it is none of them.
        InputError: it has no bytes, or it is HEIC and ``pillow-heif`` is not installed; ``source`` is what the message
            calls it.
    """
    try:
        return Image.open(file, formats=_readable())
    except UnidentifiedImageError:
        file.seek(0)
        start = file.read(12)
        if not start:
            raise InputError(f"{source}: is empty, 0 bytes; expected an image") from None
        if start[4:8] != b"ftyp" or start[8:12] not in _HEIC_BRANDS:
            raise
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise InputError(
            f"{source}: is HEIC, which the package pillow-heif reads; install it with {install_command('heic')}, "
            "or save the image as JPEG"
        ) from None
    register_heif_opener()
    file.seek(0)
    return Image.open(file, formats=("HEIF",))


@cache
def _readable() -> tuple[str, ...]:
    """The formats that this Pillow reads; a reader is registered when its module is imported."""
    for name in FORMATS:
        with suppress(ImportError):  # AVIF came with Pillow 11.3
            import_module(f"PIL.{name.capitalize().replace('Webp', 'WebP')}ImagePlugin")
    return tuple(name for name in FORMATS if name in Image.OPEN)


def webp_pixels(file: BinaryIO) -> int:
    """The pixels of a WebP file, by its header, and 0 of another: Pillow takes memory for them when it opens it."""
    start = file.read(30)
    file.seek(0)
    kind = start[12:16] if start[:4] == b"RIFF" and start[8:12] == b"WEBP" and len(start) == 30 else b""
    if kind == b"VP8X":
        return (1 + int.from_bytes(start[24:27], "little")) * (1 + int.from_bytes(start[27:30], "little"))
    if kind == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        return (1 + (bits & 0x3FFF)) * (1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 ":
        return (int.from_bytes(start[26:28], "little") & 0x3FFF) * (int.from_bytes(start[28:30], "little") & 0x3FFF)
    return 0
