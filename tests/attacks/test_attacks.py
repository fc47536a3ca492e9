"""A few hundred hostile inputs of each kind in every CI run; `python -m tests.attacks --cases 10000` tries more."""

import sys

import numpy as np
import pytest

from daps_tokenizer import Tokenizer
from daps_tokenizer.errors import DapsError, InputError
from daps_tokenizer.errors import printable as printable_of
from tests.attacks.kinds import KINDS
from tests.attacks.run import attack

CASES = {"graph_file": 10, "killed": 10, "hub": 20, "api": 150}  # of the others 40


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="uses pipes, devices and limits of Linux")
@pytest.mark.parametrize("kind", list(KINDS))
def test_hostile_input_is_refused_or_loads_as_what_it_is(kind: str) -> None:
    found = attack(kind, CASES.get(kind, 40), seed=2026)
    assert found.is_good, "\n".join(found.bad)
    assert (found.refused > 0 or kind == "killed") and found.peak_megabytes < 1000


# What attacks found once


def test_messages_show_control_characters_and_are_cut() -> None:
    assert printable_of("\x1b]0;owned\x07 \u202e abc \r\n two é−×") == "\\x1b]0;owned\\x07 \\u202e abc   two é−×"
    message = str(DapsError("file " + "\x1b" * 5000 + ": cannot be read; expected a file"))
    assert len(message) == 500 and message.startswith("file \\x1b") and message.endswith("; expected a file")


@pytest.mark.parametrize("temperature", [10**400, np.timedelta64(1), 1j, float("nan")])
def test_a_temperature_that_is_no_number_of_python_is_refused(temperature: object) -> None:
    tok = Tokenizer.from_pretrained("daps-mnist", num_threads=1)
    with pytest.raises(InputError, match="temperature must be a finite number of at least 0"):
        tok.sample(np.zeros((28, 28), np.uint8), temperature=temperature)  # type: ignore[arg-type]


def test_more_samples_than_memory_holds_are_refused() -> None:
    tok = Tokenizer.from_pretrained("daps-mnist", num_threads=1)
    with pytest.raises(InputError, match="1,000,000,000 samples of 8 codes take 30 GiB of random numbers"):
        tok.sample(np.zeros((28, 28), np.uint8), num_samples=10**9)


def test_an_overlap_may_be_a_small_integer_of_numpy() -> None:
    tok = Tokenizer.from_pretrained("daps-h1-motion", num_threads=1)
    codes = tok.encode("examples/walk.csv", overlap=np.int8(4))  # type: ignore[arg-type]
    assert codes == tok.encode("examples/walk.csv", overlap=4)
