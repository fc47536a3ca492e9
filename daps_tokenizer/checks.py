"""The checks of arguments that are integers, numbers or one of a few choices."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

from daps_tokenizer.errors import InputError


def check_integer(name: str, value: object, *, least: int) -> None:
    """Refuse what is not an integer, Python's or numpy's, of at least ``least``.

    Raises:
        InputError: naming the option and the value.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name} must be an integer of at least {least}, not {value!r}")


def check_number(name: str, value: object) -> None:
    """Refuse what is not a finite real number, Python's or numpy's, of at least 0.

    Raises:
        InputError: naming the option and the value.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or value < 0 or not value < float("inf"):
        raise InputError(f"{name} must be a finite number of at least 0, not {value!r}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse what is not one of the choices.

    Raises:
        InputError: naming the option, the choices and the value.
    """
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
