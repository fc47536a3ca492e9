"""``config.json`` of a generator: the tokenizer whose codes it draws, its classes, and its network."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from daps_tokenizer.config.checks import require, require_choice, require_positive
from daps_tokenizer.config.reading import FORMAT_VERSION, StoredConfig

GeneratorKind = Literal["flow", "causal"]

MAX_STEPS = 10_000  # of a flow
MAX_GUIDANCE = 1000.0  # far beyond use; logits times more than that leave float32


@dataclass(frozen=True)
class TokenizerReference:
    """Which tokenizer made the codes: its name, and the sha256 of its ``model.safetensors``, which says exactly."""

    name: str
    weights_sha256: str


@dataclass(frozen=True)
class TransformerConfig:
    """The transformer of a generator.

    Args:
        hidden_size, num_layers, num_heads: as everywhere; a head has an even number of channels.
        mlp_ratio: size of the feed-forward layer over ``hidden_size``.
    """

    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        require_positive("network", **dataclasses.asdict(self))
        require(
            self.hidden_size % (2 * self.num_heads) == 0,
            f"network.hidden_size {self.hidden_size} is not a multiple of twice its {self.num_heads} heads",
        )


@dataclass(frozen=True)
class Condition:
    """Something that a causal generator is told besides a label, as numbers; it may be left out.

    Args:
        name: as ``text``.
        size: how many numbers.
        tokens: positions before the first code that it takes up, to which all codes attend.
        codes: whether the numbers are codes of another item of the same tokenizer.
        guided: whether guidance moves away from what is drawn without it.
    """

    name: str
    size: int
    tokens: int = 1
    codes: bool = False
    guided: bool = False

    def __post_init__(self) -> None:
        require_positive(f"condition {self.name}", size=self.size, tokens=self.tokens)


@dataclass(frozen=True)
class GeneratorConfig(StoredConfig):
    """One generator of codes.

    Args:
        name: of the generator.
        kind: ``flow``, discrete flow matching: all codes at once, in steps; ``causal``: one code after the other.
        tokenizer: whose codes they are.
        num_tokens, vocab_size: N and V of that tokenizer.
        network: the transformer.
        labels: names of the classes; none where codes were not labelled.
        conditions: what else it is told; of a causal generator alone.
        book_size: numbers of an entry of the tokenizer's code books (:mod:`daps_tokenizer.model.transform`), which
            the generator reads codes by; 0 where the tokenizer has none.
        steps: of a flow, unless the caller says otherwise.
        guidance: away from codes of any class, unless the caller says otherwise; 0 for none.
        temperature: what logits are divided by, unless the caller says otherwise.
        training: how the weights came to be; for people, never read by the code.
        files: sha256 of every file in the folder, by its path in the folder.

    Raises:
        ConfigError: a value that no generator could have, with its name.
    """

    name: str
    kind: GeneratorKind
    tokenizer: TokenizerReference
    num_tokens: int
    vocab_size: int
    network: TransformerConfig = field(default_factory=TransformerConfig)
    labels: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    book_size: int = 0
    steps: int = 20
    guidance: float = 0.0
    temperature: float = 1.0
    training: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, GeneratorKind)
        require_positive("config", num_tokens=self.num_tokens, vocab_size=self.vocab_size)
        require(2 <= self.vocab_size <= 65536, f"vocab_size must be between 2 and 65536, not {self.vocab_size}")
        require(len(set(self.labels)) == len(self.labels), f"labels must differ: {', '.join(self.labels)}")
        names = [condition.name for condition in self.conditions]
        require(len(set(names)) == len(names), f"names of conditions must differ: {', '.join(names)}")
        require(self.kind == "causal" or not (names or self.book_size), "conditions and code books need kind causal")
        for condition in self.conditions:
            fits = not condition.codes or (self.book_size > 0 and condition.size == self.num_tokens)
            require(fits, f"condition {condition.name}: codes are {self.num_tokens}, and need a book_size")
        check_defaults(steps=self.steps, guidance=self.guidance, temperature=self.temperature)

    @property
    def no_label(self) -> int:
        """The number that stands for codes of any class: one more than that of the last label."""
        return len(self.labels)


def check_defaults(*, steps: object = 1, guidance: object = 0.0, temperature: object = 1.0) -> None:
    """Refuse what a generator cannot draw with, where the caller does not say otherwise.

    Raises:
        ConfigError: a value out of range or of another type, with its name.
    """
    is_integer = isinstance(steps, int) and not isinstance(steps, bool)
    require(is_integer and 1 <= steps <= MAX_STEPS, f"steps must be from 1 to {MAX_STEPS}, not {steps!r}")  # type: ignore[operator]
    for name, value, most in (("guidance", guidance, MAX_GUIDANCE), ("temperature", temperature, math.inf)):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = is_number and 0 <= value <= most and math.isfinite(value)  # type: ignore[operator, arg-type]
        limit = "" if most == math.inf else f" and at most {most:g}"
        require(fits, f"{name} must be a finite number of at least 0{limit}, not {value!r}")
