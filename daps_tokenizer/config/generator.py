"""``config.json`` of a generator: the tokenizer whose codes it draws, its classes, and its network."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from daps_tokenizer.config.checks import require, require_choice, require_positive
from daps_tokenizer.config.reading import FORMAT_VERSION, StoredConfig

GeneratorKind = Literal["flow", "causal"]


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
class GeneratorConfig(StoredConfig):
    """One generator of codes.

    Args:
        name: of the generator.
        kind: ``flow``, discrete flow matching: all codes at once, in steps; ``causal``: one code after the other.
        tokenizer: whose codes they are.
        num_tokens, vocab_size: N and V of that tokenizer.
        network: the transformer.
        labels: names of the classes; none where codes were not labelled.
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
    steps: int = 20
    guidance: float = 0.0
    temperature: float = 1.0
    training: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        require(
            self.format_version == FORMAT_VERSION,
            f"format_version {self.format_version} is not known; this version of daps-tokenizer reads {FORMAT_VERSION}",
        )
        require_choice("kind", self.kind, GeneratorKind)
        require_positive("config", num_tokens=self.num_tokens, vocab_size=self.vocab_size, steps=self.steps)
        require(2 <= self.vocab_size <= 65536, f"vocab_size must be between 2 and 65536, not {self.vocab_size}")
        require(len(set(self.labels)) == len(self.labels), f"labels must differ: {', '.join(self.labels)}")
        for name in ("guidance", "temperature"):
            require(getattr(self, name) >= 0, f"{name} must be at least 0, not {getattr(self, name)}")

    @property
    def no_label(self) -> int:
        """The number that stands for codes of any class: one more than that of the last label."""
        return len(self.labels)
