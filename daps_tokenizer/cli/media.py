"""What ``daps-tokenize`` does differently for images and for motion: read, write, and say how good it is."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from daps_tokenizer.cli.common import note_once
from daps_tokenizer.cli.options import Runtime, Tokenizers
from daps_tokenizer.cli.sources import STANDARD_STREAM, check_not_a_folder, default_model, name_of, open_source
from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.errors import InputError
from daps_tokenizer.evaluation.metrics import psnr
from daps_tokenizer.images.formats import open_image
from daps_tokenizer.images.load import to_pil
from daps_tokenizer.motion.clip_files import FORMATS, Kind
from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.motion.doubts import find_doubts
from daps_tokenizer.motion.metrics import motion_metrics
from daps_tokenizer.motion.robots import robot_of
from daps_tokenizer.search.base import SearchResult
from daps_tokenizer.tokenizer import Tokenizer

_IMAGE_FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}  # the usual one first
_MOST_PIXELS = {".webp": 16_383, ".jpg": 65_500, ".jpeg": 65_500}  # a side, by the format
_MOST_PIXELS_OF_A_PICTURE = 65_500  # a larger one serves nobody


class Said(NamedTuple):
    """Something in words for people and as a record for programs."""

    text: str
    record: dict[str, Any]

    @classmethod
    def gain(cls, name: str, amount: float, unit: str, *, digits: int = 1) -> Said:
        """By how much a quantity rose."""
        return cls(f"{name} {amount:+,.{digits}f} {unit}", {"objective": name, "gain": _finite(amount), "unit": unit})


class Loaded(NamedTuple):
    """An input, read once: what the tokenizer takes, what a reconstruction is compared with, and what was assumed."""

    inputs: Any
    targets: np.ndarray
    assumed: str = ""


class DecodedFiles(NamedTuple):
    """What codes were decoded to: as :meth:`Tokenizer.decode` gives it, as files, and what each of them is."""

    array: np.ndarray
    files: list[bytes]
    said: Said


class Written(NamedTuple):
    """How clips are written: at which frame rate, and in which format of :mod:`~daps_tokenizer.motion.clip_files`."""

    fps: float | None = None
    kind: Kind | None = None


AS_IT_CAME = Written()


class Media(Protocol):
    """The manners of one modality."""

    @property
    def endings(self) -> Sequence[str]:
        """Suffixes that decoded files may have, the usual one first."""

    @property
    def items(self) -> str:
        """What several of them are called."""

    def load(self, source: str, tokenizer: Tokenizer, options: dict[str, Any], clip: str | None) -> Loaded:
        """Read a source, once, as something that the tokenizer takes with the same options.

        Raises:
            InputError: it cannot be read, or an option is not for this modality.
        """

    def decode(self, tokenizer: Tokenizer, codes: Codes, suffix: str, written: Written = AS_IT_CAME) -> DecodedFiles:
        """Codes as the content of files of this type.

        Raises:
            InputError: what is asked for how they are written is not for this modality.
        """

    def quality(self, original: np.ndarray, reconstruction: np.ndarray) -> Said:
        """How close a reconstruction is, both as :meth:`Tokenizer.decode` gives them, (1, ...)."""

    def gain(self, tokenizer: Tokenizer, targets: np.ndarray, result: SearchResult) -> Said:
        """What a search by squared error gained over greedy codes."""


class ImageMedia:
    """Images are read by Pillow and written as PNG, or as WebP or JPEG of quality 90; how good they are is PSNR."""

    endings = tuple(_IMAGE_FORMATS)
    items = "images"

    def load(self, source: str, tokenizer: Tokenizer, options: dict[str, Any], clip: str | None) -> Loaded:
        """Pixels as the model sees them, (1, H, W, C) uint8."""
        given = [f"--{name}" for name in ("fps", "overlap") if name in options] + ["--clip"] * (clip is not None)
        if given:
            raise InputError(f"{tokenizer.config.name} is a model of images; {given[0]} is for files of motion")
        check_not_a_folder(source)
        pixels = tokenizer.targets(open_source(source), **options)
        _say_what_is_taken(source)
        return Loaded(pixels, pixels)

    def decode(self, tokenizer: Tokenizer, codes: Codes, suffix: str, written: Written = AS_IT_CAME) -> DecodedFiles:
        """Files of one of the formats."""
        if written != AS_IT_CAME:
            raise InputError(f"{codes.model} is a model of images; --fps and --format are for files of motion")
        images = tokenizer.decode(codes)
        height, width, _ = images.shape[-3:]
        files = [image_file(image, suffix) for image in images.reshape(-1, *images.shape[-3:])]
        return DecodedFiles(images, files, Said(f"{width}x{height} pixels", {"width": width, "height": height}))

    def quality(self, original: np.ndarray, reconstruction: np.ndarray) -> Said:
        """PSNR in dB."""
        decibels = float(psnr(original, reconstruction)[0])
        return Said(f"PSNR {decibels:.2f} dB", {"psnr": _finite(decibels)})

    def gain(self, tokenizer: Tokenizer, targets: np.ndarray, result: SearchResult) -> Said:
        """In dB of PSNR."""
        before, after = (float(psnr(targets, tokenizer.decode(each))[0]) for each in (result.greedy, result.codes))
        return Said.gain("PSNR", 0.0 if before == after else after - before, "dB", digits=2)  # both may be infinite


class MotionMedia:
    """Clips are read and written as CSV or NPZ; how good they are is the error of joints and root."""

    endings = FORMATS
    items = "clips"

    def load(self, source: str, tokenizer: Tokenizer, options: dict[str, Any], clip: str | None) -> Loaded:
        """The clip, which knows its frame rate, and its poses (1, T, 26)."""
        if "fit" in options:
            raise InputError(f"{tokenizer.config.name} is a model of motion; --fit is for images")
        check_not_a_folder(source)
        fps, opened, robot = options.get("fps"), open_source(source), robot_of(tokenizer.config)
        if isinstance(opened, str):
            loaded = Clip.load(opened, fps=fps, clip=clip, robot=robot)
        else:
            loaded = Clip.from_bytes(opened.read(), source=opened.name, fps=fps, clip=clip, robot=robot)
        for doubt in find_doubts(loaded):
            note_once(f"{loaded.name} {doubt}", f"{loaded.name}: {doubt}")
        return Loaded(loaded, loaded.qpos[None], f"{loaded.fps:g} fps assumed" if loaded.fps_is_assumed else "")

    def decode(self, tokenizer: Tokenizer, codes: Codes, suffix: str, written: Written = AS_IT_CAME) -> DecodedFiles:
        """CSV or NPZ files."""
        clips = tokenizer.decode_to_clips(codes)
        if written.fps is not None:
            clips = [clip.at(written.fps) for clip in clips]
        frames, fps = len(clips[0]), clips[0].fps
        said = Said(f"{frames} frames at {fps:g} fps", {"frames": frames, "fps": fps})
        return DecodedFiles(
            np.stack([clip.qpos for clip in clips]), [clip.to_bytes(suffix, kind=written.kind) for clip in clips], said
        )

    def quality(self, original: np.ndarray, reconstruction: np.ndarray) -> Said:
        """Mean errors of joint angles in degrees and of the root's position in cm."""
        found = motion_metrics(original, reconstruction, fps=1.0)  # these two do not depend on the frame rate
        joints, root = float(found["joint_error"][0]), float(found["root_error"][0])
        return Said(
            f"joints off by {joints:.2f} degrees, root by {root:.1f} cm", {"joint_error": joints, "root_error": root}
        )

    def gain(self, tokenizer: Tokenizer, targets: np.ndarray, result: SearchResult) -> Said:
        """In squared error of the standardised features, negative where it became smaller."""
        return Said.gain("squared error", -float(result.gain.sum()), "in standardised units")


def media_of(modality: str) -> Media:
    """The manners of a modality."""
    return ImageMedia() if modality == "image" else MotionMedia()


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
    """An image (H, W, C) uint8 as the content of a file with this suffix.

    Raises:
        InputError: larger than files with this suffix can be.
    """
    most = _most_pixels(suffix)
    if max(image.shape[:2]) > most:
        raise InputError(
            f"an image of {image.shape[1]:,}×{image.shape[0]:,} pixels, and a {suffix} file has at most {most:,} a "
            "side; write a .png"
        )
    buffer = io.BytesIO()
    to_pil(image).save(buffer, _IMAGE_FORMATS[suffix.lower()], quality=90)  # which PNG does not look at
    return buffer.getvalue()


def _most_pixels(suffix: str) -> float:
    return _MOST_PIXELS.get(suffix.lower(), math.inf)


def _gap(width: int) -> int:
    return max(1, width // 16)


def picture_size(count: int, image: Sequence[int], columns: int, suffix: str) -> tuple[int, int]:
    """Height and width in pixels of a picture of ``count`` images (H, W, C) in columns, with a gap between them.

    Raises:
        InputError: larger than files with this suffix can be.
    """
    gap = _gap(image[1])
    size = -(-count // columns) * (image[0] + gap) - gap, columns * (image[1] + gap) - gap
    most = min(_most_pixels(suffix), _MOST_PIXELS_OF_A_PICTURE)
    if max(size) > most:
        raise InputError(
            f"{count:,} images in {columns:,} columns are {size[1]:,}×{size[0]:,} pixels, and a {suffix} file has at "
            f"most {most:,} a side; draw fewer, or write single files with -o FOLDER/"
        )
    return size


def picture_of(images: np.ndarray, columns: int, suffix: str) -> bytes:
    """Images (n, H, W, C) uint8 row by row, with a white gap between them, as a file with this suffix."""
    count, height, width, channels = images.shape
    gap = _gap(width)
    picture = np.full((*picture_size(count, images.shape[1:], columns, suffix), channels), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        picture[top : top + height, left : left + width] = image
    return image_file(picture, suffix)


def _say_what_is_taken(source: str) -> None:
    """Note, once in a run, what of an image is not encoded; only its header is read, as it has been decoded before."""
    opened = open_source(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of many pixels, which the tokenizer has a limit for
        with Path(opened).open("rb") if isinstance(opened, str) else opened as file:
            image = open_image(file, name_of(source))
            if getattr(image, "is_animated", False):
                note_once("frames", f"{name_of(source)} holds several frames; the first one is taken")
            if image.has_transparency_data:
                note_once("transparency", f"{name_of(source)} has transparency; transparent pixels are laid over white")


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
