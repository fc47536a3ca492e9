"""Built-in models give the codes and reconstructions of ``tests/reference``, whatever changes in the code."""

from __future__ import annotations

import numpy as np
import pytest

from daps_tokenizer import Tokenizer
from tests.reference.cases import CASES, Case, read_decoded, read_reference


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}-{case.example.stem}")
def test_codes_and_reconstruction_are_those_of_the_reference(case: Case) -> None:
    expected = read_reference(case)
    tok = Tokenizer.from_pretrained(case.model)

    assert tok.config.weights_sha256 == expected["weights_sha256"], "run python -m tests.reference"
    codes = tok.encode(case.example)
    np.testing.assert_array_equal(codes.numpy()[0], expected["greedy"])
    sampled = tok.sample(case.example, seed=expected["seed"])
    np.testing.assert_array_equal(sampled.numpy()[0, 0], expected["sampled"])
    tolerance = 1 if tok.modality == "image" else 1e-4  # rounding: one level of 255; metres and radians
    assert np.abs(tok.decode(codes)[0].astype(float) - read_decoded(case)).max() <= tolerance
