"""HEIC, which telephones write and Pillow does not read: by ``pillow-heif`` where that is installed."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from daps_tokenizer.errors import InputError
from daps_tokenizer.install import install_command

_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def open_image(file: Path | io.BytesIO, source: str) -> Image.Image:
    """``Image.open``, also of HEIC.

    Raises:
        InputError: it is HEIC, and ``pillow-heif`` is not installed; ``source`` is what the message calls it.
    """
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if not _is_heic(file):
            raise
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise InputError(
            f"{source}: is HEIC, which the package pillow-heif reads; install it with {install_command('heic')}, "
            "or save the image as JPEG"
        ) from None
    register_heif_opener()
    return Image.open(file)


def _is_heic(file: Path | io.BytesIO) -> bool:
    if isinstance(file, io.BytesIO):
        start = file.getvalue()[:12]
    else:
        with file.open("rb") as content:
            start = content.read(12)
    return start[4:8] == b"ftyp" and start[8:12] in _BRANDS
