"""The one class users meet: images and motion to codes and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np
from PIL import Image

from daps_tokenizer.backends import BackendName, open_backend
from daps_tokenizer.backends.protocol import Backend
from daps_tokenizer.backends.tiled import Mosaic, can_be_one_grid
from daps_tokenizer.checks import check_integer, check_number
from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.codes.layouts import ClipLayout, TileLayout
from daps_tokenizer.codes.model_codes import ModelCodes
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import InputError
from daps_tokenizer.hub import ModelFolder, copy_folder, open_model, push_folder
from daps_tokenizer.images.load import to_pil
from daps_tokenizer.inputs import InputOptions
from daps_tokenizer.modalities import open_modality
from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.search.base import Search, check_search, draw_uniform

# Reconstructions are made in pieces of about this many values, so that decoding a large photograph needs little memory.
_VALUES_PER_PIECE = 2**23
_ValuesOf = Callable[[Backend, np.ndarray, np.ndarray], np.ndarray]


class Distribution(NamedTuple):
    """p(x|z): mean and variance in standardised units, each (..., *input_shape) float32."""

    mean: np.ndarray
    variance: np.ndarray


class Tokenizer:
    """Maps images or motion to discrete codes, and codes back. Safe to use from several threads.

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
        self._inputs = open_modality(folder.config)
        self._codes = ModelCodes(folder.config)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        backend: BackendName = "auto",
        device: str | None = None,
        dtype: str = "float32",
        num_threads: int | None = None,
    ) -> Tokenizer:
        """Load a model by its built-in name, its folder, or its ``org/name`` on the Hugging Face Hub.

        Args:
            name_or_path: for example ``"daps-cifar10"``, ``"./my-model"`` or ``"org/name"``.
            revision: branch, tag or commit on the Hub.
            cache_dir, token, local_files_only: as in ``huggingface_hub``.
            backend: the runtime; ``auto`` is the fastest that is installed and works here, see :attr:`backend_info`.
            device: ``cpu`` or ``cuda``; None takes the runtime's default.
            dtype: ``float32``; the backends torch and tensorrt also take ``bfloat16`` and ``float16``.
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
        """N, the number of codes per item (per tile or window, where an input is cut)."""
        return self.config.num_tokens

    @property
    def bits_per_item(self) -> float:
        """N · log2 V."""
        return self.config.bits_per_item

    @property
    def modality(self) -> str:
        """``image`` or ``motion``."""
        return self.config.modality

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(height, width, channels) or (frames, features) of what the model sees."""
        return self.config.input_shape

    @property
    def backend(self) -> str:
        """The runtime in use."""
        return self._backend.name

    @property
    def backend_info(self) -> str:
        """The runtime in use in words: its version, what it runs on, and in which precision."""
        return self._backend.info

    @property
    def device(self) -> str:
        """The device in use."""
        return self._backend.device

    def encode(self, inputs: object, *, search: Search | None = None, **options: Unpack[InputOptions]) -> Codes:
        """Images or clips to codes: at each position the most probable code, or what ``search`` finds.

        Args:
            inputs: a path, an array or tensor, or a list of them; for an image model also PIL images (see
                :func:`~daps_tokenizer.images.load.load_images`), for a motion model also
                :class:`~daps_tokenizer.motion.clips.Clip` (see :func:`~daps_tokenizer.motion.clips.load_clips`).
            search: for instance ``LocalSearch()`` or ``BestOf(8)``.
            **options: ``fit`` of images, ``fps`` and ``overlap`` of motion: see
                :class:`~daps_tokenizer.inputs.InputOptions`.

        Returns:
            Codes of shape (B, N); (B, tiles, N) of images with ``fit="tile"``, (B, windows, N) of clips.

        Raises:
            InputError: an input that cannot be read or is none of these, tiled images or clips of unequal sizes, an
                option that is out of range or of another modality, or a ``search`` that is none.
        """
        check_search(search)
        batch = self._inputs.prepare(inputs, options)
        if search is None:
            unused = np.zeros((len(batch.pieces), self.num_tokens), np.float32)
            return self._draw(batch.pieces, unused, 0.0, batch.leading, batch.layout)
        codes = search.run(self._backend_for(batch.layout), batch.pieces, self.config)
        return self._codes.make(codes.reshape(*batch.leading, -1), batch.layout)

    def sample(
        self,
        inputs: object,
        *,
        num_samples: int = 1,
        temperature: float = 1.0,
        seed: int = 0,
        **options: Unpack[InputOptions],
    ) -> Codes:
        """Draw codes from q(z|x), sharpened by a temperature below 1.

        The same seed gives the same codes, on every runtime (up to near-ties of float arithmetic).

        Returns:
            Codes of shape (B, num_samples, N); (B, num_samples, pieces, N) of tiled images and of clips.

        Raises:
            InputError: as for :meth:`encode`, or impossible ``num_samples``, ``temperature`` or ``seed``.
            UnsupportedError: a quantiser, which has nothing to draw from.
        """
        self.config.require_probabilities()
        check_integer("num_samples", num_samples, least=1)
        check_number("temperature", temperature)
        batch = self._inputs.prepare(inputs, options)
        leading = (batch.leading[0], num_samples, *batch.leading[1:])
        uniform = draw_uniform((*leading, self.num_tokens), seed)
        layout = batch.layout and batch.layout.take(np.repeat(np.arange(batch.leading[0]), num_samples).tolist())
        rows = uniform.reshape(-1, self.num_tokens)
        return self._draw(batch.repeat(num_samples), rows, float(temperature), leading, layout)

    def log_prob(self, inputs: object, codes: Codes | np.ndarray, **options: Unpack[InputOptions]) -> np.ndarray:
        """log q(z|x) of given codes in nats, summed over the codes of an item (paper, section 3).

        Args:
            inputs: as for :meth:`encode`, and with the same options that the codes were made with.
            codes: of shape (B, N) or (B, S, N); codes of tiles or windows have that axis before the last.
            **options: as for :meth:`encode`.

        Returns:
            float64, (B,) or (B, S).

        Raises:
            CodesError: codes of another model, out of range, or not of as many items.
            UnsupportedError: a quantiser, whose codes have no probabilities.
        """
        return self._sum_per_item(inputs, codes, options, lambda backend, x, z: backend.score(x, z, 1).log_probs)

    def log_likelihood(self, inputs: object, codes: Codes | np.ndarray, **options: Unpack[InputOptions]) -> np.ndarray:
        """log p(x|z) in nats and standardised units, as in the paper's Table 1.

        Arguments, shapes and errors as for :meth:`log_prob`.
        """
        return self._likelihoods(inputs, codes, options)[0]

    def squared_error(self, inputs: object, codes: Codes | np.ndarray, **options: Unpack[InputOptions]) -> np.ndarray:
        """Σ (x − mean of p(x|z))² in standardised units.

        Arguments, shapes and errors as for :meth:`log_prob`.
        """
        return self._likelihoods(inputs, codes, options)[1]

    def decode(self, codes: Codes | np.ndarray) -> np.ndarray:
        """Codes to images or motion.

        Args:
            codes: Codes, or integers of any leading shape (..., N).

        Returns:
            Of an image model uint8 (..., height, width, channels): of the model's size, or of the original's where
            codes are tiled. Of a motion model poses (..., T, 26) float64 as in
            :class:`~daps_tokenizer.motion.clips.Clip`: of the original's length, frame rate, place and heading, or
            without a layout each item a clip of its own that starts at the origin.

        Raises:
            CodesError: codes of another model, out of range, or of another length.
        """
        values, layout = self._codes.check(codes)
        flat = values.reshape(-1, self.num_tokens)
        backend = self._backend_for(layout)
        if isinstance(backend, Mosaic):
            whole = backend.images(flat)
            return whole.reshape(*values.shape[:-2], *whole.shape[1:])
        step = max(1, _VALUES_PER_PIECE // math.prod(self.input_shape))
        pieces = [backend.decode(flat[i : i + step]).reconstruction for i in range(0, len(flat), step)]
        return self._inputs.restore(np.concatenate(pieces).reshape(*values.shape[:-1], *self.input_shape), layout)

    def decode_to_pil(self, codes: Codes | np.ndarray) -> list[Image.Image]:
        """Like :meth:`decode`, as a flat list of PIL images (mode L or RGB); of image models only."""
        self._require("image", "decode_to_pil")
        images = self.decode(codes)
        return [to_pil(image) for image in images.reshape(-1, *images.shape[-3:])]

    def decode_to_clips(self, codes: Codes | np.ndarray) -> list[Clip]:
        """Like :meth:`decode`, as a flat list of clips that know their frame rate; of motion models only."""
        self._require("motion", "decode_to_clips")
        poses = self.decode(codes)
        layout = codes.layout if isinstance(codes, Codes) else None
        fps = layout.fps if isinstance(layout, ClipLayout) else self.config.motion.fps  # type: ignore[union-attr]
        flat = poses.reshape(-1, *poses.shape[-2:])
        return [Clip(clip, fps, f"clip {number} of the decoded") for number, clip in enumerate(flat, start=1)]

    def decode_distribution(self, codes: Codes | np.ndarray) -> Distribution:
        """p(x|z) itself, per pixel or feature, in standardised units; tiles and windows are not joined."""
        values, layout = self._codes.check(codes)
        decoded = self._backend_for(layout).decode(values.reshape(-1, self.num_tokens))
        shape = (*values.shape[:-1], *self.input_shape)
        return Distribution(decoded.mean.reshape(shape), decoded.variance.reshape(shape))

    def reconstruct(
        self, inputs: object, *, search: Search | None = None, **options: Unpack[InputOptions]
    ) -> np.ndarray:
        """Encode and decode: what is left of the inputs, as from :meth:`decode`."""
        return self.decode(self.encode(inputs, search=search, **options))

    def prepare(self, inputs: object, **options: Unpack[InputOptions]) -> np.ndarray:
        """What the model is asked to reproduce, as :meth:`decode` would give it back, to compare reconstructions with.

        Images (B, height, width, C) uint8, fitted to the model's size, or of their own size where tiled; black or white
        where the model knows no greys. The poses of clips (B, T, 26) float64, as they are.
        """
        return self._inputs.originals(inputs, options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Copy the model's files to a new folder, which :meth:`from_pretrained` loads.

        Raises:
            OutputExistsError: the folder exists and is not empty.
            ModelFileError: a file of the model is missing or damaged.
            DapsError: the folder cannot be written.
        """
        return copy_folder(self._folder, Path(folder))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
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

    def _require(self, modality: str, method: str) -> None:
        if self.modality != modality:
            raise InputError(f"{method} is for {modality} models; {self.config.name} is one of {self.modality}")

    def _likelihoods(self, inputs: object, codes: Codes | np.ndarray, options: InputOptions) -> np.ndarray:
        """log p(x|z) and squared error of one run of the likelihood's graph, (2, B) or (2, B, S)."""
        return self._sum_per_item(inputs, codes, options, lambda backend, x, z: np.stack(backend.likelihood(x, z)))

    def _sum_per_item(
        self, inputs: object, codes: Codes | np.ndarray, options: InputOptions, values_of: _ValuesOf
    ) -> np.ndarray:
        """Sum ``values_of(backend, inputs, codes)`` (..., n, N) over codes and pieces of each item, or each sample."""
        values, layout = self._codes.check(codes)
        batch = self._inputs.prepare(inputs, options)
        pieces, leading = self._codes.match(values, layout, batch)
        per_code = values_of(self._backend_for(layout), pieces, values.reshape(-1, self.num_tokens))
        return per_code.astype(np.float64).reshape(*per_code.shape[:-2], *leading, -1).sum(-1)

    def _backend_for(self, layout: TileLayout | ClipLayout | None) -> Backend:
        """The backend as it sees items that are cut like this: tiles next to their neighbours where that matters."""
        if isinstance(layout, TileLayout) and can_be_one_grid(self.config, layout):
            return Mosaic(self._backend, self.config, layout)
        return self._backend

    def _draw(
        self,
        pieces: np.ndarray,
        uniform: np.ndarray,
        temperature: float,
        leading: tuple[int, ...],
        layout: TileLayout | ClipLayout | None,
    ) -> Codes:
        """Codes (*leading, N) of pieces."""
        codes = self._backend.encode(pieces, uniform, temperature).codes
        return self._codes.make(codes.reshape(*leading, -1), layout)
