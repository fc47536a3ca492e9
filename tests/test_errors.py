"""Errors: one base class, and each is the built-in error that a Python programmer would catch."""

import pickle

import pytest

import daps_tokenizer
from daps_tokenizer import errors

BUILT_INS = {
    "ConfigError": ValueError,
    "ModelNotFoundError": FileNotFoundError,
    "ModelFileError": OSError,
    "HubError": OSError,
    "InputError": ValueError,
    "CodesError": ValueError,
    "CodesFileError": ValueError,
    "BackendError": RuntimeError,
    "UnsupportedError": NotImplementedError,
    "OutputExistsError": FileExistsError,
    "InUseError": BlockingIOError,
}


@pytest.mark.parametrize("name", BUILT_INS)
def test_an_error_is_a_daps_error_and_a_built_in_one_and_survives_a_process_boundary(name: str) -> None:
    kind = getattr(daps_tokenizer, name)
    assert issubclass(kind, errors.DapsError) and issubclass(kind, BUILT_INS[name])
    again = pickle.loads(pickle.dumps(kind("x.png: no such file")))
    assert type(again) is kind and str(again) == "x.png: no such file"


def test_every_error_has_a_built_in_one() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert defined == {"DapsError", *BUILT_INS}
