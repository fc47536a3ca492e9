"""What every part of ``config.json`` checks its values with."""

from __future__ import annotations

from typing import get_args

from daps_tokenizer.errors import ConfigError


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with this message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def require_positive(owner: str, **sizes: int) -> None:
    """Refuse sizes that are not positive integers, each by the name ``owner.size``."""
    for name, size in sizes.items():
        is_integer = isinstance(size, int) and not isinstance(size, bool)
        require(is_integer and size > 0, f"{owner}.{name} must be a positive integer, not {size!r}")


def require_choice(owner: str, value: object, choices: object) -> None:
    """Refuse what is not one of the values of a ``Literal``."""
    require(value in get_args(choices), f"{owner} must be one of {', '.join(get_args(choices))}, not {value!r}")
