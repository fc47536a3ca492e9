"""The checks of arguments that are integers, numbers or one of a few choices."""

from __future__ import annotations

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
