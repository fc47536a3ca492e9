"""The one class users meet: images to codes and back."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from daps_tokenizer.backends import Backend, open_backend
from daps_tokenizer.codes import Codes, TileLayout
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import BackendError, CodesError, InputError, OutputExistsError
from daps_tokenizer.hub import ModelFolder, open_model, push_folder
from daps_tokenizer.images import fit_image, load_images, to_pil
from daps_tokenizer.search import Search, check_temperature, draw_uniform
from daps_tokenizer.tiles import cut_tiles, join_tiles

FitMode = Literal["crop", "pad", "stretch", "tile"]
FIT_MODES = ("crop", "pad", "stretch", "tile")

# Reconstructions are made in pieces of about this many values, so that decoding a large photograph needs little memory.
_VALUES_PER_PIECE = 2**23


class Distribution(NamedTuple):
    """p(x|z): mean and variance in standardised units, each (..., *input_shape) float32."""

    mean: np.ndarray
    variance: np.ndarray


class _Prepared(NamedTuple):
    """Inputs of the model's size (n, *input_shape); n is the product of ``leading``: (B,), or (B, tiles)."""

    inputs: np.ndarray
    leading: tuple[int, ...]
    layout: TileLayout | None


class Tokenizer:
    """Maps images to discrete codes, and codes to images. Safe to use from several threads.

    >>> tok = Tokenizer.from_pretrained("daps-cifar10")
    >>> codes = tok.encode("examples/cat.png")
    >>> codes.shape, tok.bits_per_item
    ((1, 64), 576.0)
    >>> tok.decode(codes).shape
    (1, 32, 32, 3)
    """

    def __init__(self, folder: ModelFolder, backend: Backend) -> None:
        self.config: TokenizerConfig = folder.config
        self._folder = folder
        self._backend = backend
        if self.config.modality != "image":
            raise BackendError(f"{self.config.name} is a {self.config.modality} model; this version encodes images")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        backend: Literal["auto", "onnx", "torch"] = "auto",
        device: str | None = None,
        dtype: str = "float32",
        num_threads: int | None = None,
    ) -> Tokenizer:
        """Load a model by its built-in name, its folder, or its ``org/name`` on the Hugging Face Hub.

        Args:
            name_or_path: for example ``"daps-cifar10"``, ``"./my-model"`` or ``"org/name"``.
            revision: branch, tag or commit on the Hub.
            cache_dir, token, local_files_only: as in ``huggingface_hub``.
            backend: the runtime; ``auto`` is ONNX Runtime.
            device: ``cpu`` or ``cuda``; None takes the runtime's default.
            dtype: ``float32``; the torch backend also takes ``bfloat16`` and ``float16``.
            num_threads: CPU threads; None takes all that the process may use.

        Raises:
            ModelNotFoundError: nothing goes by that name.
            ModelFileError, ConfigError: the model's files are not what they should be.
            HubError: the Hub cannot be reached, and nothing is cached.
            BackendError: the runtime is not installed or cannot use the device.
        """
        folder = open_model(
            name_or_path, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        return cls(folder, open_backend(folder, backend=backend, device=device, dtype=dtype, num_threads=num_threads))

    def __repr__(self) -> str:
        return f"Tokenizer({self.config.name!r}, backend={self.backend!r}, device={self.device!r})"

    @property
    def vocab_size(self) -> int:
        """V, the number of values a code can take."""
        return self.config.vocab_size

    @property
    def num_tokens(self) -> int:
        """N, the number of codes per item (per tile, where an image is tiled)."""
        return self.config.num_tokens

    @property
    def bits_per_item(self) -> float:
        """N · log2 V."""
        return self.config.bits_per_item

    @property
    def modality(self) -> str:
        """``image``."""
        return self.config.modality

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(height, width, channels) of what the model sees."""
        return self.config.input_shape

    @property
    def backend(self) -> str:
        """The runtime in use."""
        return self._backend.name

    @property
    def device(self) -> str:
        """The device in use."""
        return self._backend.device

    def encode(self, images: object, *, fit: FitMode = "crop", search: Search | None = None) -> Codes:
        """Images to codes: at each position the most probable code, or what ``search`` finds.

        Args:
            images: a path, a PIL image, a uint8 array or tensor (H, W), (H, W, C) or (B, H, W, C), or a list of them.
            fit: how an image of another size is brought to the model's: ``crop`` and ``stretch`` scale it, ``pad``
                scales it and repeats its edges, ``tile`` cuts it into as many tiles as it takes and scales nothing.
            search: for instance ``BestOf(8)``.

        Returns:
            Codes of shape (B, N), or (B, tiles, N) with ``fit="tile"``.

        Raises:
            InputError: an input that cannot be read or is none of these, or tiled images of unequal sizes.
        """
        prepared = self._prepare(images, fit)
        if search is None:
            unused = np.zeros((len(prepared.inputs), self.num_tokens), np.float32)
            codes = self._backend.encode(prepared.inputs, unused, 0.0).codes
        else:
            codes = search.run(self._backend, prepared.inputs, self.num_tokens)
        return self._codes(codes.reshape(*prepared.leading, -1), prepared.layout)

    def sample(
        self,
        images: object,
        *,
        num_samples: int = 1,
        temperature: float = 1.0,
        seed: int = 0,
        fit: FitMode = "crop",
    ) -> Codes:
        """Draw codes from q(z|x), sharpened by a temperature below 1.

        The same seed gives the same codes, on every runtime (up to near-ties of float arithmetic).

        Returns:
            Codes of shape (B, num_samples, N), or (B, num_samples, tiles, N) with ``fit="tile"``.

        Raises:
            InputError: as for :meth:`encode`, or impossible ``num_samples``, ``temperature`` or ``seed``.
        """
        if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
            raise InputError(f"num_samples must be an integer of at least 1, not {num_samples!r}")
        check_temperature(temperature)
        prepared = self._prepare(images, fit)
        leading = (prepared.leading[0], num_samples, *prepared.leading[1:])
        uniform = draw_uniform((*leading, self.num_tokens), seed)
        inputs = self._repeat(prepared, leading)
        codes = self._backend.encode(inputs, uniform.reshape(len(inputs), -1), temperature).codes
        return self._codes(codes.reshape(*leading, -1), prepared.layout)

    def log_prob(self, images: object, codes: Codes | np.ndarray, *, fit: FitMode = "crop") -> np.ndarray:
        """log q(z|x) of given codes in nats, summed over the codes of an image (paper, section 3).

        Args:
            images: as for :meth:`encode`, and with the same ``fit`` that the codes were made with.
            codes: of shape (B, N) or (B, S, N); tiled codes have their tile axis before the last.

        Returns:
            float64, (B,) or (B, S).

        Raises:
            CodesError: codes of another model, out of range, or not of as many images.
        """
        return self._sum_per_image(images, codes, fit, lambda x, z: self._backend.score(x, z, 1).log_probs)

    def log_likelihood(self, images: object, codes: Codes | np.ndarray, *, fit: FitMode = "crop") -> np.ndarray:
        """log p(x|z) in nats and standardised units, as in the paper's Table 1.

        Arguments, shapes and errors as for :meth:`log_prob`.
        """
        return self._sum_per_image(images, codes, fit, lambda x, z: self._backend.likelihood(x, z).log_likelihood)

    def decode(self, codes: Codes | np.ndarray) -> np.ndarray:
        """Codes to images.

        Args:
            codes: Codes, or integers of any leading shape (..., N).

        Returns:
            uint8 (..., height, width, channels): of the model's size, or of the original's where codes are tiled.

        Raises:
            CodesError: codes of another model, out of range, or of another length.
        """
        values, layout = self._check(codes)
        flat = values.reshape(-1, self.num_tokens)
        step = max(1, _VALUES_PER_PIECE // math.prod(self.input_shape))
        pieces = [self._backend.decode(flat[i : i + step]).reconstruction for i in range(0, len(flat), step)]
        images = np.concatenate(pieces)
        if layout is None:
            return images.reshape(*values.shape[:-1], *self.input_shape)
        tiled = images.reshape(-1, values.shape[-2], *self.input_shape)
        joined = np.stack([join_tiles(tiles, layout) for tiles in tiled])
        return joined.reshape(*values.shape[:-2], *joined.shape[1:])

    def decode_to_pil(self, codes: Codes | np.ndarray) -> list[Image.Image]:
        """Like :meth:`decode`, as a flat list of PIL images (mode L or RGB)."""
        images = self.decode(codes)
        return [to_pil(image) for image in images.reshape(-1, *images.shape[-3:])]

    def decode_distribution(self, codes: Codes | np.ndarray) -> Distribution:
        """p(x|z) itself, per pixel or feature, in standardised units; tiles are left apart."""
        values, _ = self._check(codes)
        decoded = self._backend.decode(values.reshape(-1, self.num_tokens))
        shape = (*values.shape[:-1], *self.input_shape)
        return Distribution(decoded.mean.reshape(shape), decoded.variance.reshape(shape))

    def reconstruct(self, images: object, *, fit: FitMode = "crop", search: Search | None = None) -> np.ndarray:
        """Encode and decode: what is left of the images, uint8 as from :meth:`decode`."""
        return self.decode(self.encode(images, fit=fit, search=search))

    def prepare(self, images: object, *, fit: FitMode = "crop") -> np.ndarray:
        """What the model sees of the images: (B, height, width, C) uint8; the images themselves where tiled."""
        prepared = self._prepare(images, fit)
        if prepared.layout is None:
            return prepared.inputs
        tiles = prepared.inputs.reshape(*prepared.leading, *self.input_shape)
        return np.stack([join_tiles(image, prepared.layout) for image in tiles])

    def save_pretrained(self, folder: str | Path) -> Path:
        """Copy the model's files to a new folder, which :meth:`from_pretrained` loads.

        Raises:
            OutputExistsError: the folder exists and is not empty.
            ModelFileError: a file of the model is missing or damaged.
        """
        target = Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise OutputExistsError(f"{target}: already exists; give the name of a new folder")
        sources = {name: self._folder.file(name) for name in self.config.files}
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for name, source in sources.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, partial / name)
        for name in ("config.json", "README.md"):
            if (self._folder.path / name).is_file():
                shutil.copyfile(self._folder.path / name, partial / name)
        if target.exists():
            target.rmdir()
        partial.rename(target)
        return target

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | bool | None = None,
        revision: str | None = None,
        private: bool = False,
        commit_message: str = "Upload model",
    ) -> str:
        """Upload the model to the Hugging Face Hub; returns the commit's URL.

        Raises:
            HubError: the Hub cannot be reached or refuses.
        """
        return push_folder(
            self._folder.path, repo_id, token=token, revision=revision, private=private, commit_message=commit_message
        )

    def _prepare(self, images: object, fit: FitMode) -> _Prepared:
        """Load images and bring them to the model's size."""
        if fit not in FIT_MODES:
            raise InputError(f"fit must be one of {', '.join(FIT_MODES)}, not {fit!r}")
        height, width, channels = self.input_shape
        loaded = load_images(images, channels=channels)
        if fit != "tile":
            return _Prepared(np.stack([fit_image(i, height, width, fit=fit) for i in loaded]), (len(loaded),), None)
        sizes = {image.shape for image in loaded}
        if len(sizes) > 1:
            found = ", ".join(f"{h}×{w}" for h, w, _ in sorted(sizes))
            raise InputError(f'fit="tile" needs images of one size, not {found}; encode them one at a time')
        cut = [cut_tiles(image, height, width) for image in loaded]
        tiles = np.concatenate([image_tiles for image_tiles, _ in cut])
        layout = cut[0][1]
        return _Prepared(tiles, (len(loaded), layout.rows * layout.columns), layout)

    def _repeat(self, prepared: _Prepared, leading: tuple[int, ...]) -> np.ndarray:
        """Inputs (n, *input_shape) for codes of shape (B, S, ...): each image S times, tiles innermost."""
        grouped = prepared.inputs.reshape(*prepared.leading, *self.input_shape)
        repeated = np.repeat(grouped[:, None], leading[1], axis=1)
        return repeated.reshape(-1, *self.input_shape)

    def _sum_per_image(self, images: object, codes: Codes | np.ndarray, fit: FitMode, values_of: Any) -> np.ndarray:
        values, layout = self._check(codes)
        prepared = self._prepare(images, fit)
        if layout != prepared.layout:
            raise CodesError(
                "the codes are not tiled as the images are; pass the images and the fit they were made with"
            )
        tile_axes = len(prepared.leading) - 1
        samples = values.shape[1 : values.ndim - 1 - tile_axes]
        if values.ndim < 2 or len(values) != prepared.leading[0] or len(samples) > 1:
            raise CodesError(
                f"codes of shape {values.shape} are not of {prepared.leading[0]} images; "
                f"expected ({prepared.leading[0]}, {self.num_tokens}) or ({prepared.leading[0]}, S, {self.num_tokens})"
            )
        inputs = self._repeat(prepared, values.shape[:-1]) if samples else prepared.inputs
        per_code = values_of(inputs, values.reshape(-1, self.num_tokens))
        return per_code.astype(np.float64).reshape(*values.shape[: 1 + len(samples)], -1).sum(-1)

    def _codes(self, values: np.ndarray, layout: TileLayout | None) -> Codes:
        return Codes(values, self.vocab_size, self.config.name, self._weights_sha256, layout)

    def _check(self, codes: Codes | np.ndarray) -> tuple[np.ndarray, TileLayout | None]:
        """Values (..., N) int32 and layout of codes that are this model's."""
        if isinstance(codes, Codes):
            if codes.weights_sha256 not in ("", self._weights_sha256):
                raise CodesError(
                    f"codes were made by {codes.model} (weights {codes.weights_sha256[:12]}), not by "
                    f"{self.config.name} (weights {self._weights_sha256[:12]}); use the model that made them"
                )
            checked = codes
        else:
            checked = self._codes(codes, None)
        if checked.vocab_size != self.vocab_size or checked.num_tokens != self.num_tokens:
            raise CodesError(
                f"codes have {checked.num_tokens} tokens out of {checked.vocab_size}; "
                f"{self.config.name} has {self.num_tokens} out of {self.vocab_size}"
            )
        return checked.numpy(), checked.layout

    @property
    def _weights_sha256(self) -> str:
        return self.config.files.get("model.safetensors", "")
