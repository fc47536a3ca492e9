"""Dataclasses from JSON or YAML content, checked key by key.

Unknown keys are refused, because a key that is silently ignored is a setting that silently does nothing.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args, get_type_hints

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.files import read_regular_file

FORMAT_VERSION = 1

_MOST_BYTES = 2**24  # of a config.json

_Config = TypeVar("_Config")


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
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: expected a finite number, found {value}")
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


class StoredConfig:
    """A dataclass that is a whole ``config.json``."""

    def to_json(self) -> str:
        """The text of ``config.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, text: str, *, source: str = "config.json") -> Self:
        """Read and check the text of ``config.json``.

        Raises:
            ConfigError: not JSON, a key that is unknown, missing or of the wrong type, or impossible sizes.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:  # not JSON, or too long a number; or nested too deep
            raise ConfigError(f"{source}: not valid JSON ({error})") from error
        return config_from_dict(cls, content, source=source)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read and check a ``config.json`` file."""
        text = read_regular_file(path, most_bytes=_MOST_BYTES).decode("utf-8")
        return cls.from_json(text, source=str(path))
