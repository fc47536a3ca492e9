"""``config.json`` of a model folder: what the model is, written once, checked whenever it is read.

The file mirrors the dataclasses below field by field. Unknown keys are refused, because a key that is silently ignored
is a setting that silently does nothing.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from daps_tokenizer.errors import ConfigError, UnsupportedError

FORMAT_VERSION = 1

Modality = Literal["image", "motion"]
GenerativeKind = Literal["mlp", "resnet", "transformer", "spectral"]
LikelihoodKind = Literal["bernoulli", "gaussian", "gaussian_constant"]
RecognitionKind = Literal["autoregressive", "independent", "nearest", "levels", "gaussian"]

_Config = TypeVar("_Config")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_positive(owner: str, **sizes: int) -> None:
    for name, size in sizes.items():
        is_integer = isinstance(size, int) and not isinstance(size, bool)
        _require(is_integer and size > 0, f"{owner}.{name} must be a positive integer, not {size!r}")


def _require_choice(owner: str, value: object, choices: object) -> None:
    _require(value in get_args(choices), f"{owner} must be one of {', '.join(get_args(choices))}, not {value!r}")


@dataclass(frozen=True)
class RecognitionConfig:
    """Sizes of the recognition model q(z|x), a transformer (paper, Figure 1 and Appendix F).

    ``patch_size`` is (height, width) of an image patch; motion has none, as its frames are up-sampled by a transposed
    convolution instead. ``kind`` says what comes of an input: ``autoregressive``, Π q(z_t | z_<t, x), num_layers blocks
    in the encoder and as many in the decoder; all others are num_layers blocks of self-attention and one pass:
    ``independent``, Π q(z_t | x); the quantisers ``nearest``, codes of the nearest vectors (VQ-VAE), and ``levels``,
    codes of rounded numbers with so many ``levels`` each (FSQ); ``gaussian``, no codes (Gaussian VAE).
    ``window`` is (rows, columns) of codes, or empty: an image's grid of codes is cut into windows of this size that are
    encoded side by side, each by itself, so that the loop over positions is as short as a window.
    """

    patch_size: tuple[int, ...] = ()
    window: tuple[int, ...] = ()
    hidden_size: int = 128
    num_heads: int = 4
    num_layers: int = 2
    mlp_ratio: int = 4
    kind: RecognitionKind = "autoregressive"
    levels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _require_choice("recognition.kind", self.kind, RecognitionKind)
        _require(
            (self.kind == "levels") == bool(self.levels) and all(level >= 3 for level in self.levels),
            f"recognition.levels are the numbers, 3 or more, of kind levels alone; kind {self.kind} has "
            f"{list(self.levels)}",
        )
        _require_positive(
            "recognition",
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            mlp_ratio=self.mlp_ratio,
        )
        for name, sizes in (("patch_size", self.patch_size), ("window", self.window)):
            _require_positive("recognition", **{f"{name}[{i}]": size for i, size in enumerate(sizes)})
        _require(
            self.hidden_size % self.num_heads == 0,
            f"recognition.hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}",
        )

    @property
    def has_probabilities(self) -> bool:
        """Whether there is a q(z|x) to draw from and to score with, which quantisers do not have."""
        return self.kind in ("autoregressive", "independent")


@dataclass(frozen=True)
class GenerativeConfig:
    """Sizes of the generative model p(x|z).

    ``mlp``: hidden_size, then hidden_size × mlp_ratio, then the pixels. ``resnet``: num_layers residual blocks of
    hidden_size channels, then transposed convolutions. ``transformer``: num_layers blocks of hidden_size (motion).
    ``spectral``: the coefficients of a transform (``TransformConfig``), corrected by num_layers hidden layers of
    hidden_size (motion).
    """

    kind: GenerativeKind
    embedding_size: int = 128
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 4
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        _require_choice("generative.kind", self.kind, GenerativeKind)
        _require_positive(
            "generative",
            embedding_size=self.embedding_size,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
        )


@dataclass(frozen=True)
class LikelihoodConfig:
    """The distribution of x given the output of the generative model.

    ``bernoulli``: black-or-white pixels. ``gaussian``: mean and variance are both learned, the variance per pixel and
    channel and clipped to [min_variance, max_variance]. ``gaussian_constant``: the variance is ``variance`` throughout.
    Variances are in standardised units.
    """

    kind: LikelihoodKind
    min_variance: float = 0.01
    max_variance: float = 1.0
    variance: float = 0.25

    def __post_init__(self) -> None:
        _require_choice("likelihood.kind", self.kind, LikelihoodKind)
        _require(
            0.0 < self.min_variance < self.max_variance,
            f"likelihood needs 0 < min_variance < max_variance, not {self.min_variance} and {self.max_variance}",
        )
        _require(self.variance > 0.0, f"likelihood.variance must be positive, not {self.variance}")


@dataclass(frozen=True)
class NormalisationConfig:
    """Mean and standard deviation of the training set: per channel of pixels in [0, 1], or per motion feature."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        _require(
            len(self.mean) == len(self.std),
            f"normalisation has {len(self.mean)} means and {len(self.std)} standard deviations",
        )
        _require(
            all(math.isfinite(m) for m in self.mean) and all(math.isfinite(s) and s > 0 for s in self.std),
            "normalisation needs finite means and positive, finite standard deviations",
        )


@dataclass(frozen=True)
class MotionConfig:
    """What the numbers of a motion model mean: its frame rate, and the names of joints and features in their order."""

    fps: float
    joint_names: tuple[str, ...]
    feature_names: tuple[str, ...]

    def __post_init__(self) -> None:
        _require(math.isfinite(self.fps) and self.fps > 0, f"motion.fps must be a positive number, not {self.fps}")
        for name, values in (("joint_names", self.joint_names), ("feature_names", self.feature_names)):
            _require(len(values) > 0, f"motion.{name} is empty")
            _require(len(set(values)) == len(values), f"motion.{name} has a name twice")


@dataclass(frozen=True)
class TransformConfig:
    """A linear transform of motion clips whose coefficients the codes stand for (``model/transform.py``).

    ``frequencies``: how many of the lowest frequencies of a cosine transform in time are kept; ``components``: how many
    principal components of the features; ``size``: how many coefficients come of these, equally many for each code.
    """

    frequencies: int
    components: int
    size: int

    def __post_init__(self) -> None:
        _require_positive("transform", frequencies=self.frequencies, components=self.components, size=self.size)
        _require(
            self.size <= self.frequencies * self.components,
            f"transform.size {self.size} is more than the {self.frequencies * self.components} numbers it is made of",
        )


@dataclass(frozen=True)
class TokenizerConfig:
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
        _require(
            self.format_version == FORMAT_VERSION,
            f"format_version {self.format_version} is not known; this version of daps-tokenizer reads {FORMAT_VERSION}",
        )
        _require_choice("modality", self.modality, Modality)
        _require_positive("config", num_tokens=self.num_tokens, vocab_size=self.vocab_size)
        _require(2 <= self.vocab_size <= 65536, f"vocab_size must be between 2 and 65536, not {self.vocab_size}")
        rank = 3 if self.modality == "image" else 2
        _require(
            len(self.input_shape) == rank,
            f"input_shape for modality {self.modality} has {rank} sizes, not {list(self.input_shape)}",
        )
        _require_positive("config", **{f"input_shape[{i}]": size for i, size in enumerate(self.input_shape)})
        channels = self.input_shape[-1]
        _require(
            len(self.normalisation.mean) == channels,
            f"normalisation has {len(self.normalisation.mean)} values for {channels} channels or features",
        )
        if self.modality == "image":
            _require(channels in (1, 3), f"an image model has 1 or 3 channels, not {channels}")
            _require(len(self.recognition.patch_size) == 2, "recognition.patch_size of an image model has 2 sizes")
            patches = math.prod(self.patch_grid)
            _require(
                patches == self.num_tokens,
                f"recognition.patch_size cuts the image into {patches} patches for {self.num_tokens} tokens; "
                "each token needs a patch of its own",
            )
        if self.recognition.kind == "levels":
            values = math.prod(self.recognition.levels)
            _require(
                values == self.vocab_size,
                f"recognition.levels {list(self.recognition.levels)} make {values} codes, not {self.vocab_size}",
            )
        if self.motion is not None:
            _require(self.modality == "motion", f"config.motion is for motion models, not for modality {self.modality}")
            _require(
                len(self.motion.feature_names) == channels,
                f"motion has {len(self.motion.feature_names)} feature_names for {channels} features",
            )
        if self.recognition.window:
            self._check_window()
        if self.generative.kind == "resnet":
            self._check_resnet_grid()
        if self.generative.kind == "transformer":
            self._check_motion()
        self._check_transform()

    def _check_window(self) -> None:
        window = self.recognition.window
        _require(
            self.modality == "image"
            and len(window) == 2
            and all(size % part == 0 for size, part in zip(self.patch_grid, window, strict=True)),
            f"recognition.window has 2 sizes that divide the grid of an image's codes, which {list(window)} has not",
        )

    def _check_resnet_grid(self) -> None:
        side = math.isqrt(self.num_tokens)
        _require(side * side == self.num_tokens, f"resnet needs a square number of tokens, not {self.num_tokens}")
        height, width, _ = self.input_shape
        scale = height // side
        _require(
            height == width == side * scale and scale >= 2 and scale & (scale - 1) == 0,
            f"resnet doubles a {side}×{side} grid until it is the image, which {height}×{width} is not",
        )

    def _check_motion(self) -> None:
        _require(
            self.modality == "motion" and self.num_tokens == 2 * self.input_shape[0],
            f"generative.kind transformer is for motion with two tokens per frame, not {self.num_tokens} tokens for "
            f"{self.modality} inputs of {list(self.input_shape)}",
        )
        _require(
            self.generative.embedding_size == self.generative.hidden_size,
            "generative.kind transformer needs embedding_size equal to hidden_size",
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

    def _check_transform(self) -> None:
        transform = self.transform
        _require(
            (transform is not None) == (self.generative.kind == "spectral"),
            "generative.kind spectral and a transform go together",
        )
        if transform is None:
            return
        _require(self.modality == "motion", f"config.transform is for motion models, not for modality {self.modality}")
        _require(self.recognition.kind == "autoregressive", "a transform needs recognition.kind autoregressive")
        _require(
            transform.size % self.num_tokens == 0,
            f"transform.size {transform.size} is not a multiple of {self.num_tokens} tokens",
        )
        _require(
            transform.frequencies <= self.input_shape[0] and transform.components <= self.input_shape[1],
            f"transform keeps {transform.frequencies} frequencies and {transform.components} components of inputs of "
            f"{list(self.input_shape)}",
        )
        _require(
            self.generative.embedding_size == transform.size,
            f"generative.embedding_size must be the transform.size {transform.size}",
        )

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

    def to_json(self) -> str:
        """The text of ``config.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "config.json") -> TokenizerConfig:
        """Read and check the text of ``config.json``.

        Raises:
            ConfigError: not JSON, a key that is unknown, missing or of the wrong type, or impossible sizes.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{source}: not valid JSON ({error})") from error
        return config_from_dict(cls, content, source=source)

    @classmethod
    def from_file(cls, path: Path) -> TokenizerConfig:
        """Read and check a ``config.json`` file."""
        return cls.from_json(path.read_text(encoding="utf-8"), source=str(path))


def config_from_dict(cls: type[_Config], content: object, *, source: str) -> _Config:
    """Build a frozen dataclass from plain JSON or YAML content, nested dataclasses and tuples included.

    Raises:
        ConfigError: naming ``source`` and the key, where the content does not fit the dataclass.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: expected a mapping of settings, found {type(content).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    # An unknown version explains unknown keys better than the keys themselves do.
    if "format_version" in fields and content.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise ConfigError(
            f"{source}: format_version {content['format_version']!r} is not known; "
            f"this version of daps-tokenizer reads {FORMAT_VERSION}"
        )
    unknown = sorted(set(content) - set(fields))
    if unknown:
        raise ConfigError(f"{source}: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(fields))}")
    required = {
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    missing = sorted(required - set(content))
    if missing:
        raise ConfigError(f"{source}: key {missing[0]!r} is missing")
    hints = get_type_hints(cls)
    values = {name: _convert(hints[name], value, f"{source}: {name}") for name, value in content.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(source) else f"{source}: {message}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    """A JSON value as the annotated type: lists become tuples, mappings become dataclasses, integers become floats."""
    if dataclasses.is_dataclass(hint):
        return config_from_dict(hint, value, source=where)  # type: ignore[arg-type]
    arguments = get_args(hint)
    if type(None) in arguments:  # Optional[...]
        if value is None:
            return None
        choices = [a for a in arguments if a is not type(None)]
        return _convert(next((a for a in choices if _has_keys(a, value)), choices[0]), value, where)
    if getattr(hint, "__origin__", None) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, found {value!r}")
        return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if getattr(hint, "__origin__", None) is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a mapping, found {value!r}")
        return value
    if getattr(hint, "__origin__", None) is Literal:
        return value  # the dataclass itself says what it accepts
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where}: too large a number") from None
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def _has_keys(hint: Any, value: Any) -> bool:
    """Whether a mapping has only keys that are fields of a dataclass: tells which one of a union it is."""
    return (
        dataclasses.is_dataclass(hint)
        and isinstance(value, dict)
        and set(value) <= {f.name for f in dataclasses.fields(hint)}
    )
