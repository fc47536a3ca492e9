"""The one class users meet: images and motion to codes and back."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from daps_tokenizer.backends import BackendName, open_backend
from daps_tokenizer.backends.batching import concatenated
from daps_tokenizer.backends.protocol import Backend
from daps_tokenizer.backends.tiled import TiledBackend, can_be_one_grid
from daps_tokenizer.checks import check_integer, check_number
from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.codes.layouts import FARTHEST, ClipLayout, TileLayout
from daps_tokenizer.codes.model_codes import ModelCodes
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import BackendError, InputError
from daps_tokenizer.hub import ModelFolder, Origin, copy_folder, open_model, push_folder
from daps_tokenizer.images.arrays import ValueRange
from daps_tokenizer.images.load import to_pil
from daps_tokenizer.inputs import Batch, FitMode, InputOptions
from daps_tokenizer.modalities import open_modality
from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.motion.robots import robot_of
from daps_tokenizer.search.base import Search, SearchResult, check_found, check_search, draw_uniform
from daps_tokenizer.search.local import LocalSearch

if TYPE_CHECKING:
    from daps_tokenizer.codes.model_codes import AnyCodes

# Reconstructions are made in pieces of about this many values, so that decoding a large photograph needs little memory.
_VALUES_PER_PIECE = 2**23
_VALUES_AT_ONCE = 2**26  # of the inputs that are encoded together
_IMPORTED_BY = os.getpid()  # a process of another number was forked from the one that imported this


class Distribution(NamedTuple):
    """p(x|z): mean and variance in standardised units, each (..., *input_shape) float32."""

    mean: np.ndarray
    variance: np.ndarray


class Likelihood(NamedTuple):
    """How well codes explain inputs: log p(x|z) in nats and Σ (x − mean)² in standardised units, (B,) or (B, S)."""

    log_likelihood: np.ndarray
    squared_error: np.ndarray


class _Runtime(NamedTuple):
    """What a model was opened with, so that another process can open it again."""

    backend: str
    device: str
    dtype: str
    num_threads: int | None


class Tokenizer:
    """Maps images or motion to discrete codes, and codes back.

    Safe to use from several threads. In another process, forked or spawned, and as a copy, it opens its folder again
    with the same options; so it can be pickled, and used by the workers of a ``DataLoader``. In a forked process the
    backend torch computes on one thread, and a GPU cannot be used: start processes by ``spawn`` then, and also where a
    thread may be encoding while another one forks, as a lock that it holds is never released in the new process.

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
        self._opened, self._process = backend, os.getpid()
        self._runtime: _Runtime | None = None
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
            device: ``cpu``, ``cuda``, ``tensorrt-rtx`` or ``webgpu``; None takes the runtime's default.
            dtype: ``float32``; the backends torch and tensorrt also take ``bfloat16`` and ``float16``.
            num_threads: CPU threads; None takes all that the process may use.

        Raises:
            ModelNotFoundError: no model has that name.
            ModelFileError, ConfigError: a file of the model is missing, damaged or not valid.
            HubError: the Hub cannot be reached, and nothing is cached.
            BackendError: the runtime is not installed or cannot use the device.
        """
        folder = open_model(
            name_or_path, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        opened = open_backend(folder, backend=backend, device=device, dtype=dtype, num_threads=num_threads)
        tokenizer = cls(folder, opened)
        tokenizer._runtime = _Runtime(opened.name, opened.device, dtype, num_threads)
        return tokenizer

    def __reduce__(self) -> tuple[Any, ...]:
        if self._runtime is None:
            raise TypeError("a Tokenizer that was given a backend cannot be copied; open it with from_pretrained")
        return _open_again, (type(self), self._folder.path.absolute(), self._folder.origin, self._runtime)

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
    def token_grid(self) -> tuple[int, int] | None:
        """(rows, columns) of the codes where each belongs to a place in the image, row by row; else None."""
        return self.config.token_grid

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

    def encode(
        self,
        inputs: object,
        *,
        search: Search | None = None,
        fit: FitMode | None = None,
        fps: float | None = None,
        overlap: int | None = None,
        value_range: ValueRange | None = None,
    ) -> Codes:
        """Images or clips to codes: at each position the most probable code, or what ``search`` finds.

        Args:
            inputs: a path, the bytes of a file, an array or tensor, or a list of them; for an image model also PIL
                images (see :func:`~daps_tokenizer.images.load.load_images`), for a motion model also
                :class:`~daps_tokenizer.motion.clips.Clip` (see :func:`~daps_tokenizer.motion.clips.load_clips`).
            search: for instance ``LocalSearch()`` or ``BestOf(8)``.
            fit: of images: how one of another size is brought to the model's: ``crop`` (the default), ``pad``,
                ``stretch``, or ``tile``, which cuts it into as many tiles as it takes and scales nothing.
            fps: of motion: frames per second of clips that do not say so themselves.
            overlap: of motion: frames that neighbouring windows share, 0 by default.
            value_range: of images in arrays and tensors of floating-point numbers: the values of black and of white,
                for example (0, 1) or (-1, 1).

        Returns:
            Codes of shape (B, N); (B, tiles, N) of images with ``fit="tile"``, (B, windows, N) of clips. An empty list
            has codes of shape (0, N).

        Raises:
            InputError: an input that cannot be read or is of no type above, tiled images or clips of unequal sizes
                (:meth:`encode_each` takes them), an option that is out of range or of another modality.

        >>> tok.encode(np.zeros((2, 3, 32, 32), np.float32), value_range=(0, 1)).shape
        (2, 64)
        >>> tok.encode("examples/coffee.webp", fit="tile")
        Codes(shape=(1, 247, 64), vocab_size=512, model='daps-cifar10', tiles=13×19, 142272 bits)
        """
        options = InputOptions(fit, fps, overlap, value_range)
        if search is not None:
            return self._search(inputs, search, options, None).codes
        batch = self._inputs.prepare(inputs, options)
        return self._greedy(batch)

    def encode_each(
        self,
        inputs: Iterable[object],
        *,
        search: Search | None = None,
        fit: FitMode | None = None,
        fps: float | None = None,
        overlap: int | None = None,
        value_range: ValueRange | None = None,
    ) -> Iterator[Codes]:
        """Encode one input after the other, of any sizes: images with ``fit="tile"``, clips of any lengths.

        Args:
            inputs: anything that gives inputs one by one, each as for :meth:`encode`.
            search, fit, fps, overlap, value_range: as for :meth:`encode`.

        Yields:
            The codes of each, as :meth:`encode` gives them: (1, N), (1, tiles, N) or (1, windows, N).

        Raises:
            InputError: as :meth:`encode`, naming the place of the input, counted from 1; at once where ``inputs`` is a
                single one.

        >>> photographs = ["examples/cat.png", "examples/coffee.webp"]
        >>> [codes.shape for codes in tok.encode_each(photographs, fit="tile")]
        [(1, 150, 64), (1, 247, 64)]
        """
        is_single = isinstance(inputs, str | os.PathLike | bytes) or hasattr(inputs, "read")
        if is_single or not isinstance(inputs, Iterable):
            raise InputError(
                f"encode_each takes a list or another iterable of inputs, not {type(inputs).__name__}; "
                "encode takes a single one"
            )

        def each() -> Iterator[Codes]:
            for number, item in enumerate(inputs, start=1):
                try:
                    yield self.encode(item, search=search, fit=fit, fps=fps, overlap=overlap, value_range=value_range)
                except InputError as error:
                    raise InputError(f"input {number}: {error}") from error

        return each()

    def sample(
        self,
        inputs: object,
        *,
        num_samples: int = 1,
        temperature: float = 1.0,
        seed: int | Sequence[int] | None = None,
        fit: FitMode | None = None,
        fps: float | None = None,
        overlap: int | None = None,
        value_range: ValueRange | None = None,
    ) -> Codes:
        """Draw codes from q(z|x), sharpened by a temperature below 1.

        Args:
            inputs: as for :meth:`encode`.
            num_samples: S, codes of each input.
            temperature: what logits are divided by; 0 is greedy.
            seed: the same number gives the same codes, on every runtime (up to near-ties of float arithmetic); None
                draws anew each time. A list of numbers has one for each input, whose codes then depend on that alone.
            fit, fps, overlap, value_range: as for :meth:`encode`.

        Returns:
            Codes of shape (B, S, N); (B, S, pieces, N) of tiled images and of clips.

        Raises:
            InputError: as for :meth:`encode`, or impossible ``num_samples``, ``temperature`` or ``seed``.
            UnsupportedError: a quantiser, which has nothing to draw from.

        >>> tok.sample("examples/cat.png", num_samples=4, seed=0).shape
        (1, 4, 64)
        """
        self.config.require_probabilities()
        check_integer("num_samples", num_samples, least=1)
        check_number("temperature", temperature)
        batch = self._inputs.prepare(inputs, InputOptions(fit, fps, overlap, value_range))
        leading = (batch.leading[0], int(num_samples), *batch.leading[1:])
        uniform = draw_uniform((*leading, self.num_tokens), seed)
        layout = batch.layout and batch.layout.take(np.repeat(np.arange(batch.leading[0]), num_samples).tolist())
        values = self._draw(batch, int(num_samples), uniform.reshape(-1, self.num_tokens), float(temperature))
        return self._codes.make(values.reshape(*leading, self.num_tokens), layout)

    def search(
        self,
        inputs: object,
        search: Search | None = None,
        *,
        fit: FitMode | None = None,
        fps: float | None = None,
        overlap: int | None = None,
        value_range: ValueRange | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> SearchResult:
        """Like :meth:`encode` with a search, with what it gained over the greedy codes and what it cost.

        Args:
            inputs: as for :meth:`encode`.
            search: what to search with; ``LocalSearch()`` if None.
            fit, fps, overlap, value_range: as for :meth:`encode`.
            on_progress: is told what share of the search is done, in [0, 1].

        Raises:
            InputError: as for :meth:`encode`, or something that is not a search.
            UnsupportedError: a quantiser, which has no other codes to propose.

        >>> found = tok.search("examples/cat.png")
        >>> found.codes.shape, found.decodes, bool(found.gain[0] > 0)
        ((1, 64), 20, True)
        """
        options = InputOptions(fit, fps, overlap, value_range)
        return self._search(inputs, LocalSearch() if search is None else search, options, on_progress)

    def log_prob(
        self,
        inputs: object,
        codes: AnyCodes,
        *,
        fit: FitMode | None = None,
        fps: float | None = None,
        overlap: int | None = None,
        value_range: ValueRange | None = None,
    ) -> np.ndarray:
        """log q(z|x) of given codes in nats, summed over the codes of an item (paper, section 3).

        Args:
            inputs: as for :meth:`encode`, and with the same options that the codes were made with.
            codes: of shape (B, N) or (B, S, N); codes of tiles or windows have that axis before the last.
            fit, fps, overlap, value_range: as for :meth:`encode`.

        Returns:
            float64, (B,) or (B, S).

        Raises:
            CodesError: codes of another model, out of range, or not of as many items.
            UnsupportedError: a quantiser, whose codes have no probabilities.

        >>> tok.log_prob("examples/cat.png", tok.encode("examples/cat.png")).shape
        (1,)
        """
        log_probs, layout = self._token_log_probs(inputs, codes, InputOptions(fit, fps, overlap, value_range))
        return _sum_of_items(log_probs, layout)

    def token_log_probs(
        self,
        inputs: object,
        codes: AnyCodes,
        *,
        fit: FitMode | None = None,
        fps: float | None = None,
        overlap: int | None = None,
        value_range: ValueRange | None = None,
    ) -> np.ndarray:
        """log q(z_t | z_<t, x) of each code in nats, from one teacher-forced pass; arguments and errors of log_prob.

        Returns:
            float32, of the shape of the codes: (B, N) or (B, S, N), with the axis of tiles or windows before the last.

        >>> tok.token_log_probs("examples/cat.png", tok.sample("examples/cat.png", num_samples=4)).shape
        (1, 4, 64)
        """
        return self._token_log_probs(inputs, codes, InputOptions(fit, fps, overlap, value_range))[0]

    def likelihood(
        self,
        inputs: object,
        codes: AnyCodes,
        *,
        fit: FitMode | None = None,
        fps: float | None = None,
        overlap: int | None = None,
        value_range: ValueRange | None = None,
    ) -> Likelihood:
        """How well codes explain inputs: log p(x|z) and squared error, from one run; arguments and errors of log_prob.

        Both are in units of the training set's deviations; the paper's Table 1 has others for ImageNet (MODEL_CARD.md).

        Returns:
            ``log_likelihood`` in nats and ``squared_error``, Σ (x − mean of p(x|z))², each float64, (B,) or (B, S).

        >>> tok.likelihood("examples/cat.png", tok.encode("examples/cat.png")).log_likelihood.shape
        (1,)
        """
        options = InputOptions(fit, fps, overlap, value_range)
        values, layout, pieces = self._match(inputs, codes, options)
        if not values.size:
            nothing = _sum_of_items(np.zeros(values.shape), layout)
            return Likelihood(nothing, nothing)
        cells = self._backend_for(layout).likelihood(pieces, values.reshape(-1, self.num_tokens))
        return Likelihood(*(_sum_of_items(array.reshape(values.shape), layout) for array in cells))

    def codes(self, values: AnyCodes, *, layout: TileLayout | ClipLayout | None = None) -> Codes:
        """Integers that a generative model made, checked, as codes of this model.

        Args:
            values: (..., N), or (..., rows, columns) as in :attr:`token_grid`: an array or a tensor of integers.
            layout: of tiles or windows, (..., T, N), if they are one image or clip.

        Raises:
            CodesError: not integers, out of range, or of another length.

        >>> tok.codes(np.zeros((2, 8, 8), int)).shape
        (2, 64)
        """
        checked, own_layout = self._codes.check(values)
        return self._codes.make(checked, own_layout if layout is None else layout)

    def decode(self, codes: AnyCodes) -> np.ndarray:
        """Codes to images or motion.

        Args:
            codes: Codes, or an array or tensor of integers of any leading shape, (..., N), or (..., rows, columns) as
                in :attr:`token_grid`.

        Returns:
            Of an image model uint8 (..., height, width, channels): of the model's size, or of the original's where
            codes are tiled. Of a motion model poses (..., T, 7 + joints) float64 as in
            :class:`~daps_tokenizer.motion.clips.Clip`: of the original's length, frame rate, place and heading, or
            without a layout each item a clip of its own that starts at the origin.

        Raises:
            CodesError: codes of another model, out of range, or of another length.

        >>> tok.decode(np.zeros((5, 2, 8, 8), int)).shape
        (5, 2, 32, 32, 3)
        """
        values, layout = self._codes.check(codes)
        if not values.size:
            return self._of_no_items(self.decode, values, layout)
        flat = values.reshape(-1, self.num_tokens)
        backend = self._backend_for(layout)
        if isinstance(backend, TiledBackend):
            whole = backend.images(flat)
            return whole.reshape(*values.shape[:-2], *whole.shape[1:])
        step = max(1, _VALUES_PER_PIECE // math.prod(self.input_shape))
        pieces = [backend.reconstruct(flat[i : i + step]) for i in range(0, len(flat), step)]
        return self._inputs.restore(concatenated(pieces).reshape(*values.shape[:-1], *self.input_shape), layout)

    def decode_to_pil(self, codes: AnyCodes) -> list[Image.Image]:
        """Like :meth:`decode`, as a flat list of PIL images (mode L or RGB); of image models only.

        >>> tok.decode_to_pil(tok.encode("examples/cat.png"))[0].size
        (32, 32)
        """
        self._require("image", "decode_to_pil")
        images = self.decode(codes)
        return [to_pil(image) for image in images.reshape(-1, *images.shape[-3:])]

    def decode_to_clips(self, codes: AnyCodes) -> list[Clip]:
        """Like :meth:`decode`, as a flat list of clips that know their frame rate; of motion models only."""
        self._require("motion", "decode_to_clips")
        poses = self.decode(codes)
        layout = codes.layout if isinstance(codes, Codes) else None
        fps = layout.fps if isinstance(layout, ClipLayout) else self.config.motion.fps  # type: ignore[union-attr]
        flat = poses.reshape(-1, *poses.shape[-2:])
        robot = robot_of(self.config)
        # A reconstruction of a clip at the end of the range of places may lie a little beyond it.
        np.clip(flat[..., :3], -FARTHEST, FARTHEST, out=flat[..., :3])
        return [
            Clip(clip, fps, f"clip {number} of the decoded", robot=robot) for number, clip in enumerate(flat, start=1)
        ]

    def decode_distribution(self, codes: AnyCodes) -> Distribution:
        """p(x|z) itself, per pixel or feature, in standardised units; tiles and windows are not joined.

        >>> tok.decode_distribution(np.zeros((2, 64), int)).mean.shape
        (2, 32, 32, 3)
        """
        values, layout = self._codes.check(codes)
        shape = (*values.shape[:-1], *self.input_shape)
        if not values.size:
            return Distribution(np.empty(shape, np.float32), np.empty(shape, np.float32))
        decoded = self._backend_for(layout).decode(values.reshape(-1, self.num_tokens))
        return Distribution(decoded.mean.reshape(shape), decoded.variance.reshape(shape))

    def reconstruct(
        self,
        inputs: object,
        *,
        search: Search | None = None,
        fit: FitMode | None = None,
        fps: float | None = None,
        overlap: int | None = None,
        value_range: ValueRange | None = None,
    ) -> np.ndarray:
        """Encode and decode: the reconstructions of inputs. Arguments of :meth:`encode`, result of :meth:`decode`.

        >>> tok.reconstruct("examples/cat.png").shape
        (1, 32, 32, 3)
        """
        return self.decode(
            self.encode(inputs, search=search, fit=fit, fps=fps, overlap=overlap, value_range=value_range)
        )

    def targets(
        self,
        inputs: object,
        *,
        fit: FitMode | None = None,
        fps: float | None = None,
        overlap: int | None = None,
        value_range: ValueRange | None = None,
    ) -> np.ndarray:
        """What a reconstruction is compared with: the inputs as :meth:`decode` would give them back without loss.

        Images (B, height, width, C) uint8, fitted to the model's size, or of their own size where tiled; black or white
        where the model knows no greys. The poses of clips (B, T, 26) float64, as they are. Arguments and errors of
        :meth:`encode`.

        >>> tok.targets("examples/cat.png").shape
        (1, 32, 32, 3)
        """
        return self._inputs.targets(inputs, InputOptions(fit, fps, overlap, value_range))

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

    @property
    def _backend(self) -> Backend:
        """The backend, opened again in a process that was forked: threads and GPUs do not survive that."""
        if self._process != os.getpid() and self._runtime is not None:
            if self._runtime.device != "cpu":
                raise BackendError(
                    f"{self.config.name} was opened on device {self._runtime.device!r} before this process was forked, "
                    'and a GPU cannot be used then; start processes by "spawn"'
                )
            self._opened, self._process = _open_backend_again(self._folder, self._runtime), os.getpid()
        return self._opened

    def _greedy(self, batch: Batch) -> Codes:
        unused = np.zeros((len(batch.pieces), self.num_tokens), np.float32)
        values = self._draw(batch, 1, unused, 0.0)
        return self._codes.make(values.reshape(*batch.leading, self.num_tokens), batch.layout)

    def _search(
        self,
        inputs: object,
        search: Search,
        options: InputOptions,
        on_progress: Callable[[float], None] | None,
    ) -> SearchResult:
        check_search(search)
        batch = self._inputs.prepare(inputs, options)
        if not len(batch.pieces):
            return SearchResult(self._greedy(batch), self._greedy(batch), np.zeros(0), 0, 0.0)
        backend = self._backend_for(batch.layout)
        own = np.array(batch.pieces)  # a user's search may write to what it is given
        returned = search.find(backend, own, self.config, on_progress=on_progress)
        found = check_found(returned, len(batch.pieces), self.num_tokens)
        codes, greedy = (
            self._codes.make(np.asarray(values).reshape(*batch.leading, -1), batch.layout)
            for values in (found.codes, found.greedy)
        )
        gain = np.asarray(found.gain, np.float64).reshape(batch.leading[0], -1).sum(1)
        return SearchResult(codes, greedy, gain, found.decodes, found.seconds)

    def _token_log_probs(
        self, inputs: object, codes: AnyCodes, options: InputOptions
    ) -> tuple[np.ndarray, TileLayout | ClipLayout | None]:
        """log q of each code, of the shape of the codes, and their layout."""
        self.config.require_probabilities()
        values, layout, pieces = self._match(inputs, codes, options)
        if not values.size:
            return np.zeros(values.shape, np.float32), layout
        scored = self._backend_for(layout).score(pieces, values.reshape(-1, self.num_tokens), 1)
        return scored.log_probs.reshape(values.shape), layout

    def _match(
        self, inputs: object, codes: AnyCodes, options: InputOptions
    ) -> tuple[np.ndarray, TileLayout | ClipLayout | None, np.ndarray]:
        """Values and layout of codes, and the piece of the inputs that each N of them are of."""
        values, layout = self._codes.check(codes)
        batch = self._inputs.prepare(inputs, options)
        return values, layout, self._codes.match(values, layout, batch)

    def _of_no_items(
        self,
        method: Callable[[Codes], np.ndarray],
        values: np.ndarray,
        layout: TileLayout | ClipLayout | None,
    ) -> np.ndarray:
        """What ``method`` gives for codes of no items: an empty array whose other axes are those of one item."""
        num_axes = values.ndim - (1 if layout is None else 2)
        one = method(self._codes.make(np.zeros((1, *values.shape[num_axes:]), np.int32), layout))
        return np.empty((*values.shape[:num_axes], *one.shape[1:]), one.dtype)

    def _backend_for(self, layout: TileLayout | ClipLayout | None) -> Backend:
        """The backend as it sees items that are cut like this: tiles next to their neighbours where that matters."""
        if isinstance(layout, TileLayout) and can_be_one_grid(self.config):
            return TiledBackend(self._backend, self.config, layout)
        return self._backend

    def _draw(self, batch: Batch, num_samples: int, uniform: np.ndarray, temperature: float) -> np.ndarray:
        """Codes of the pieces of a batch, those of each item ``num_samples`` times, one for each row of ``uniform``.

        Some items at a time, as their pieces are repeated.
        """
        backend, rows = self._backend_for(batch.layout), batch.repeated(num_samples)
        per_item = backend.tiles_per_item  # whole items, as tiles are encoded with what is around them
        at_once = per_item * max(1, _VALUES_AT_ONCE // (per_item * math.prod(self.input_shape)))
        parts = [np.empty((0, self.num_tokens), np.int32)]
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            pieces = batch.pieces[part if num_samples == 1 else rows[part]]  # a slice copies nothing
            parts.append(backend.encode(pieces, uniform[part], temperature).codes)
        return np.concatenate(parts)


def _sum_of_items(per_code: np.ndarray, layout: TileLayout | ClipLayout | None) -> np.ndarray:
    """Values (..., N), or (..., pieces, N) where there is a layout, summed over each item, (...) float64."""
    sums: np.ndarray = per_code.sum(-1 if layout is None else (-2, -1), dtype=np.float64)
    return sums


def _open_again(kind: type[Tokenizer], path: Path, origin: Origin, runtime: _Runtime) -> Tokenizer:
    """A Tokenizer as it was, of a model folder on this disk."""
    folder = dataclasses.replace(open_model(path), origin=origin)
    tokenizer = kind(folder, _open_backend_again(folder, runtime))
    tokenizer._runtime = runtime
    return tokenizer


def _open_backend_again(folder: ModelFolder, runtime: _Runtime) -> Backend:
    """The same backend, maybe in another process."""
    if runtime.backend == "torch" and os.getpid() != _IMPORTED_BY:
        # PyTorch's OpenMP would wait forever for threads that are not in a forked process.
        runtime = runtime._replace(num_threads=1)
    return open_backend(folder, **runtime._asdict())
