"""The checks of arguments that are integers, numbers, one of a few choices, or names."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from daps_tokenizer.errors import InputError

LARGEST = float(np.finfo(np.float32).max)  # what graphs compute with is float32
_NO_NUMBERS = (bool, np.timedelta64)  # which say that they are integers


def check_integer(name: str, value: object, *, least: int, most: int | None = None) -> None:
    """Refuse what is not an integer, Python's or numpy's, of at least ``least``, and at most ``most`` if that is given.

    Raises:
        InputError: naming the option and the value.
    """
    is_integer = isinstance(value, Integral) and not isinstance(value, _NO_NUMBERS)
    if not is_integer or not least <= value <= (value if most is None else most):  # type: ignore[operator]
        accepted = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} must be an integer {accepted}, not {value!r}")


def check_number(name: str, value: object, *, most: float = LARGEST) -> None:
    """Refuse what is not a finite real number, Python's or numpy's, of at least 0, and at most ``most``.

    Raises:
        InputError: naming the option and the value.
    """
    is_number = isinstance(value, Real) and not isinstance(value, _NO_NUMBERS)
    number: Any = float(value) if isinstance(value, np.floating) else value  # numpy's would be compared in its own type
    if not is_number or not 0 <= number <= most:
        is_told = most != LARGEST or (is_number and most < number < math.inf)
        limit = f" and at most {most:g}" if is_told else ""
        raise InputError(f"{name} must be a finite number of at least 0{limit}, not {value!r}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse what is not one of the choices.

    Raises:
        InputError: naming the option, the choices and the value.
    """
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def is_name(value: object) -> bool:
    """Whether it is a name that may become part of a path and of a message: letters, digits, ``.``, ``_`` and ``-``.

    At most 100 of them, the first a letter or a digit, all of them ASCII.
    """
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value) is not None
