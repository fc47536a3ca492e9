"""What ``daps-tokenize`` does differently for images and for motion: read, write, and say how good it is."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import UnidentifiedImageError

from daps_tokenizer.cli.common import DEFAULT_MODEL, STANDARD_STREAM, Runtime, Tokenizers, open_source
from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.errors import InputError
from daps_tokenizer.evaluation.metrics import psnr
from daps_tokenizer.images.load import to_pil
from daps_tokenizer.motion.clip_files import FORMATS
from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.motion.metrics import motion_metrics
from daps_tokenizer.tokenizer import Tokenizer

DEFAULT_MOTION_MODEL = "daps-h1-motion"
_IMAGE_FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}  # the usual one first


class Said(NamedTuple):
    """Something in words for people and as a record for programs."""

    text: str
    record: dict[str, Any]


class Decoded(NamedTuple):
    """What codes were decoded to: as :meth:`Tokenizer.decode` gives it, as files, and what each of them is."""

    array: np.ndarray
    files: list[bytes]
    said: Said


class Media(Protocol):
    """The manners of one modality."""

    @property
    def endings(self) -> Sequence[str]:
        """Suffixes that decoded files may have, the usual one first."""

    @property
    def items(self) -> str:
        """What several of them are called."""

    def load(self, source: str, tokenizer: Tokenizer, options: dict[str, Any], clip: str | None) -> Any:
        """Read a source, once, as something that the tokenizer takes with the same options.

        Raises:
            InputError: it cannot be read, or an option is not for this modality.
        """

    def decode(self, tokenizer: Tokenizer, codes: Codes, suffix: str) -> Decoded:
        """Codes as the content of files of this type."""

    def quality(self, original: np.ndarray, reconstruction: np.ndarray) -> Said:
        """How close a reconstruction is, both as :meth:`Tokenizer.decode` gives them, (1, ...)."""

    def gain(self, original: np.ndarray, before: np.ndarray, after: np.ndarray) -> Said:
        """How much closer one reconstruction is than another."""


class ImageMedia:
    """Images are read by Pillow and written as PNG, or as WebP or JPEG of quality 90; how good they are is PSNR."""

    endings = tuple(_IMAGE_FORMATS)
    items = "images"

    def load(self, source: str, tokenizer: Tokenizer, options: dict[str, Any], clip: str | None) -> np.ndarray:
        """Pixels as the model sees them, (1, H, W, C) uint8."""
        if clip is not None:
            raise InputError(f"{tokenizer.config.name} is a model of images; --clip is for files of motion")
        try:
            return tokenizer.targets(open_source(source), **options)
        except InputError as error:
            # Standard input has no suffix that says what it is.
            if source == STANDARD_STREAM and isinstance(error.__cause__, UnidentifiedImageError):
                raise InputError(f"{error}; clips, CSV or NPZ, need --model {DEFAULT_MOTION_MODEL}") from error
            raise

    def decode(self, tokenizer: Tokenizer, codes: Codes, suffix: str) -> Decoded:
        """Files of one of the formats."""
        images = tokenizer.decode(codes)
        height, width, _ = images.shape[-3:]
        files = [image_file(image, suffix) for image in images.reshape(-1, *images.shape[-3:])]
        return Decoded(images, files, Said(f"{width}x{height} pixels", {"width": width, "height": height}))

    def quality(self, original: np.ndarray, reconstruction: np.ndarray) -> Said:
        """PSNR in dB."""
        decibels = float(psnr(original, reconstruction)[0])
        return Said(f"PSNR {decibels:.2f} dB", {"psnr": _finite(decibels)})

    def gain(self, original: np.ndarray, before: np.ndarray, after: np.ndarray) -> Said:
        """In dB of PSNR."""
        worse, better = (float(psnr(original, images)[0]) for images in (before, after))
        decibels = 0.0 if worse == better else better - worse  # both may be infinite
        return Said(f"{decibels:+.2f} dB", {"decibels": _finite(decibels)})


class MotionMedia:
    """Clips are read and written as CSV or NPZ; how good they are is the error of joints and root."""

    endings = FORMATS
    items = "clips"

    def load(self, source: str, tokenizer: Tokenizer, options: dict[str, Any], clip: str | None) -> Clip:
        """The clip, which knows its frame rate."""
        fps, opened = options.get("fps"), open_source(source)
        if isinstance(opened, str):
            return Clip.load(opened, fps=fps, clip=clip)
        return Clip.from_bytes(opened.read(), source=opened.name, fps=fps, clip=clip)

    def decode(self, tokenizer: Tokenizer, codes: Codes, suffix: str) -> Decoded:
        """CSV or NPZ files."""
        clips = tokenizer.decode_to_clips(codes)
        frames, fps = len(clips[0]), clips[0].fps
        said = Said(f"{frames} frames at {fps:g} fps", {"frames": frames, "fps": fps})
        return Decoded(np.stack([clip.qpos for clip in clips]), [clip.to_bytes(suffix) for clip in clips], said)

    def quality(self, original: np.ndarray, reconstruction: np.ndarray) -> Said:
        """Mean errors of joint angles in degrees and of the root's position in cm."""
        joints, root = _errors(original, reconstruction)
        return Said(
            f"joints off by {joints:.2f} degrees, root by {root:.1f} cm", {"joint_error": joints, "root_error": root}
        )

    def gain(self, original: np.ndarray, before: np.ndarray, after: np.ndarray) -> Said:
        """In degrees of joint-angle error, negative where it became smaller."""
        degrees = _errors(original, after)[0] - _errors(original, before)[0]
        return Said(f"{degrees:+.2f} degrees", {"degrees": degrees})


def media_of(modality: str) -> Media:
    """The manners of a modality."""
    return ImageMedia() if modality == "image" else MotionMedia()


def default_model(source: str) -> str:
    """The model that takes what a file holds, by its suffix."""
    return DEFAULT_MOTION_MODEL if Path(source).suffix.lower() in FORMATS else DEFAULT_MODEL


def open_tokenizers(sources: Sequence[str], model: str | None, runtime: Runtime) -> Tokenizers:
    """The models that sources take, opened; errors of opening them."""
    tokenizers = Tokenizers(runtime)
    for name in {model or default_model(source) for source in sources}:
        tokenizers[name]
    return tokenizers


def suffix_of(name: str, media: Media) -> str:
    """The type of an output: its suffix, or the usual one on standard output."""
    return media.endings[0] if name == STANDARD_STREAM else Path(name).suffix


def image_file(image: np.ndarray, suffix: str) -> bytes:
    """An image (H, W, C) uint8 as the content of a file with this suffix."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, _IMAGE_FORMATS[suffix.lower()], quality=90)  # which PNG does not look at
    return buffer.getvalue()


def side_by_side(panels: Sequence[np.ndarray], suffix: str) -> bytes:
    """Images (H, W, C) uint8 of one size with a white gap between them, as a file with this suffix."""
    height, width, channels = panels[0].shape
    gap = np.full((height, max(1, width // 16), channels), 255, np.uint8)
    picture = np.concatenate([panels[0], *(part for panel in panels[1:] for part in (gap, panel))], axis=1)
    return image_file(picture, suffix)


def _errors(original: np.ndarray, reconstruction: np.ndarray) -> tuple[float, float]:
    found = motion_metrics(original, reconstruction, fps=1.0)  # these two do not depend on the frame rate
    return float(found["joint_error"][0]), float(found["root_error"][0])


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
