"""The whole of ``config.json``: its parts, and what must hold between them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from daps_tokenizer.checks import is_name
from daps_tokenizer.config.checks import require, require_choice, require_positive
from daps_tokenizer.config.data import MotionConfig, NormalisationConfig
from daps_tokenizer.config.networks import GenerativeConfig, LikelihoodConfig, RecognitionConfig, TransformConfig
from daps_tokenizer.config.reading import FORMAT_VERSION, StoredConfig
from daps_tokenizer.errors import UnsupportedError

Modality = Literal["image", "motion"]


@dataclass(frozen=True)
class TokenizerConfig(StoredConfig):
    """One tokenizer: what goes in, how many codes come out, and the networks between.

    Args:
        name: the name that codes carry as their origin.
        modality: ``image`` (uint8 pixels) or ``motion`` (float features).
        input_shape: (height, width, channels) or (frames, features).
        num_tokens: N, codes per item ("block size" in the paper).
        vocab_size: V, values a code can take ("vocab size" in the paper).
        motion: what frames and features are, of a motion model.
        transform: the transform that codes of a model with generative.kind spectral stand for coefficients of.
        training: how the weights came to be; for people, never read by the code.
        files: sha256 of every file in the model folder, by its path in the folder.

    Raises:
        ConfigError: a value that no model could have, with its name.
    """

    name: str
    modality: Modality
    input_shape: tuple[int, ...]
    num_tokens: int
    vocab_size: int
    recognition: RecognitionConfig
    generative: GenerativeConfig
    likelihood: LikelihoodConfig
    normalisation: NormalisationConfig
    motion: MotionConfig | None = None
    transform: TransformConfig | None = None
    training: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        require(
            is_name(self.name),
            f"name must be up to 100 letters, digits, '.', '_' and '-', the first a letter or digit, not {self.name!r}",
        )
        require_choice("modality", self.modality, Modality)
        require_positive("config", num_tokens=self.num_tokens, vocab_size=self.vocab_size)
        require(2 <= self.vocab_size <= 65536, f"vocab_size must be between 2 and 65536, not {self.vocab_size}")
        rank = 3 if self.modality == "image" else 2
        require(
            len(self.input_shape) == rank,
            f"input_shape for modality {self.modality} has {rank} sizes, not {list(self.input_shape)}",
        )
        require_positive("config", **{f"input_shape[{i}]": size for i, size in enumerate(self.input_shape)})
        channels = self.input_shape[-1]
        require(
            len(self.normalisation.mean) == channels,
            f"normalisation has {len(self.normalisation.mean)} values for {channels} channels or features",
        )
        if self.modality == "image":
            require(channels in (1, 3), f"an image model has 1 or 3 channels, not {channels}")
            require(len(self.recognition.patch_size) == 2, "recognition.patch_size of an image model has 2 sizes")
            patches = math.prod(self.patch_grid)
            require(
                patches == self.num_tokens,
                f"recognition.patch_size cuts the image into {patches} patches for {self.num_tokens} tokens; "
                "each token needs a patch of its own",
            )
        else:
            require(
                self.num_tokens % self.input_shape[0] == 0,
                f"num_tokens of a motion model must be a multiple of its {self.input_shape[0]} frames, which share the "
                f"codes equally, not {self.num_tokens}",
            )
        if self.recognition.kind == "levels":
            values = math.prod(self.recognition.levels)
            require(
                values == self.vocab_size,
                f"recognition.levels {list(self.recognition.levels)} make {values} codes, not {self.vocab_size}",
            )
        if self.motion is not None:
            require(self.modality == "motion", f"config.motion is for motion models, not for modality {self.modality}")
            require(
                len(self.motion.feature_names) == channels,
                f"motion has {len(self.motion.feature_names)} feature_names for {channels} features",
            )
        if self.recognition.window:
            self._check_window()
        if self.recognition.surroundings:
            self._check_surroundings()
        if self.generative.kind == "resnet":
            self._check_resnet_grid()
        if self.generative.kind == "transformer":
            self._check_motion()
        self._check_transform()

    def _check_window(self) -> None:
        window = self.recognition.window
        require(
            self.modality == "image"
            and len(window) == 2
            and all(size % part == 0 for size, part in zip(self.patch_grid, window, strict=True)),
            f"recognition.window must be 2 sizes that divide the grid of an image's codes, not {list(window)}",
        )

    def _check_surroundings(self) -> None:
        around, sides, patch = self.recognition.surroundings, self.input_shape[:2], self.recognition.patch_size
        require(
            around <= min(sides) and all(side % size == 0 for side, size in zip(sides, patch, strict=True)),
            f"recognition.surroundings {around} needs an image whose sides are multiples of the patches' and at least "
            f"{around}, not {list(sides)}",
        )

    def _check_resnet_grid(self) -> None:
        require(self.modality == "image", f"generative.kind resnet is for images, not for modality {self.modality}")
        side = math.isqrt(self.num_tokens)
        require(side * side == self.num_tokens, f"resnet needs a square number of tokens, not {self.num_tokens}")
        height, width, _ = self.input_shape
        scale = height // side
        require(
            height == width == side * scale and scale >= 2 and scale & (scale - 1) == 0,
            f"resnet doubles a {side}×{side} grid until it is the image, which {height}×{width} is not",
        )
        rows, columns = self.patch_grid
        require(
            rows == columns == side,
            f"recognition.patch_size cuts the image into {rows}×{columns} patches, and resnet has a grid of "
            f"{side}×{side} codes; each code needs the same place in both",
        )

    def _check_motion(self) -> None:
        require(
            self.modality == "motion" and self.num_tokens == 2 * self.input_shape[0],
            f"generative.kind transformer is for motion with two tokens per frame, not {self.num_tokens} tokens for "
            f"{self.modality} inputs of {list(self.input_shape)}",
        )
        require(
            self.generative.embedding_size == self.generative.hidden_size,
            "generative.kind transformer needs embedding_size equal to hidden_size",
        )

    def _check_transform(self) -> None:
        transform = self.transform
        require(
            (transform is not None) == (self.generative.kind == "spectral"),
            "generative.kind spectral and a transform go together",
        )
        if transform is None:
            return
        require(self.modality == "motion", f"config.transform is for motion models, not for modality {self.modality}")
        require(self.recognition.kind == "autoregressive", "a transform needs recognition.kind autoregressive")
        require(
            transform.size % self.num_tokens == 0,
            f"transform.size {transform.size} is not a multiple of {self.num_tokens} tokens",
        )
        require(
            transform.frequencies <= self.input_shape[0] and transform.components <= self.input_shape[1],
            f"transform keeps {transform.frequencies} frequencies and {transform.components} components of inputs of "
            f"{list(self.input_shape)}",
        )
        require(
            self.generative.embedding_size == transform.size,
            f"generative.embedding_size must be the transform.size {transform.size}",
        )

    def require_probabilities(self) -> None:
        """For what draws codes or scores them.

        Raises:
            UnsupportedError: a quantiser, which has one code for an input and no q(z|x).
        """
        if not self.recognition.has_probabilities:
            raise UnsupportedError(
                f"{self.name} is a quantiser (recognition.kind {self.recognition.kind}): its codes have no "
                "probabilities to draw or score them by; it can encode and decode"
            )

    @property
    def weights_sha256(self) -> str:
        """Sha256 of ``model.safetensors``, which says exactly which model this is; "" before it is exported."""
        return self.files.get("model.safetensors", "")

    @property
    def bits_per_item(self) -> float:
        """N · log2 V, the size of one item's codes in bits."""
        return self.num_tokens * math.log2(self.vocab_size)

    @property
    def patch_grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches that the recognition model cuts an image into."""
        (height, width, _), (patch_height, patch_width) = self.input_shape, self.recognition.patch_size
        return math.ceil(height / patch_height), math.ceil(width / patch_width)

    @property
    def codes_per_window(self) -> int:
        """Codes that are drawn one after the other: those of a window, or all N."""
        return math.prod(self.recognition.window) if self.recognition.window else self.num_tokens

    @property
    def windows_per_item(self) -> int:
        """Windows of an item that are encoded side by side."""
        return self.num_tokens // self.codes_per_window

    @property
    def token_grid(self) -> tuple[int, int] | None:
        """(rows, columns) of the codes where each belongs to a place in the image, else None."""
        if self.generative.kind != "resnet":
            return None
        side = math.isqrt(self.num_tokens)
        return side, side
