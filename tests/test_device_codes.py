"""Codes that stay in a tensor until they are asked for as numpy."""

import numpy as np
import pytest
import torch

from daps_tokenizer import Codes
from daps_tokenizer.device_codes import DeviceCodes
from daps_tokenizer.errors import CodesError

VALUES = np.random.default_rng(0).integers(0, 16, (3, 2, 5))


def on_device() -> DeviceCodes:
    return DeviceCodes(torch.from_numpy(VALUES), 16, "model", "")


def test_they_are_what_codes_of_an_array_are() -> None:
    expected = Codes(VALUES, 16, "model", "")
    assert on_device() == expected and expected == on_device()
    assert repr(on_device()) == repr(expected)
    assert on_device().to_bytes() == expected.to_bytes()
    np.testing.assert_array_equal(on_device()[1:].numpy(), VALUES[1:])
    assert on_device().numpy().dtype == np.int32 and len(on_device()) == 3


def test_shape_and_tensor_need_no_array() -> None:
    codes = on_device()
    assert (codes.shape, codes.num_tokens, codes.num_bits) == ((3, 2, 5), 5, 120)
    assert torch.equal(codes.torch(), torch.from_numpy(VALUES)) and codes.torch().dtype is torch.int64
    assert "values" not in vars(codes)
    codes.torch()[0] = 7  # a copy
    np.testing.assert_array_equal(codes.numpy(), VALUES)


def test_what_no_model_makes_is_refused_when_it_arrives() -> None:
    with pytest.raises(CodesError, match="code 99 at index"):
        DeviceCodes(torch.tensor([[1, 99]]), 16, "model", "").numpy()
