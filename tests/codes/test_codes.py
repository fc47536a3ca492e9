"""Codes: integers that know which model made them."""

import doctest
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daps_tokenizer.codes import codes as codes_module
from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.codes.layouts import TileLayout
from daps_tokenizer.errors import BackendError, CodesError

SHA = "0123456789abcdef" * 4
LAYOUT = TileLayout(height=40, width=90, rows=2, columns=3)


def make_codes(*shape: int, layout: TileLayout | None = None) -> Codes:
    values = np.random.default_rng(0).integers(0, 16, size=shape)
    return Codes(values, vocab_size=16, model="daps-mnist", weights_sha256=SHA, layout=layout)


# What they hold


def test_values_are_kept_as_read_only_int32_whatever_integers_came_in() -> None:
    for dtype in (np.int8, np.uint8, np.uint16, np.int32, np.int64, np.uint64, ">i4"):
        codes = Codes(np.array([[1, 2], [3, 0]], dtype=dtype).T, 4, "m", "")
        assert codes.values.dtype == np.int32
        assert codes.values.flags.c_contiguous and not codes.values.flags.writeable
        np.testing.assert_array_equal(codes.values, [[1, 3], [2, 0]])


def test_an_array_changed_later_does_not_change_the_codes() -> None:
    values = np.array([[1, 2, 3]], dtype=np.int32)
    codes = Codes(values, 4, "m", "")
    values[0, 0] = 0
    assert codes.values[0, 0] == 1


def test_numpy_gives_a_view_that_nobody_can_make_writable() -> None:
    codes = make_codes(2, 8)
    array = codes.numpy()
    assert np.shares_memory(array, codes.values)
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


def test_numpy_functions_take_codes_as_an_array() -> None:
    codes = make_codes(2, 8)
    np.testing.assert_array_equal(np.asarray(codes), codes.values)
    assert not np.asarray(codes).flags.writeable
    assert np.asarray(codes, dtype=np.int64).dtype == np.int64
    assert np.array(codes).flags.writeable
    assert np.bincount(np.ravel(codes), minlength=16).sum() == 16


def test_torch_gives_a_new_int64_tensor() -> None:
    torch = pytest.importorskip("torch")
    codes = make_codes(2, 3, 8)
    tensor = codes.torch()
    assert tensor.dtype == torch.int64
    np.testing.assert_array_equal(tensor.numpy(), codes.values)
    tensor.zero_()
    assert codes.values.any()


def test_as_tensor_copies_the_values_in_one_go() -> None:
    torch = pytest.importorskip("torch")
    codes = make_codes(2, 3, 8)
    for tensor in (torch.as_tensor(codes), torch.tensor(codes), torch.from_dlpack(codes)):
        assert tensor.dtype == torch.int32 and tensor.device.type == "cpu"
        np.testing.assert_array_equal(tensor.numpy(), codes.numpy())
    assert torch.as_tensor(codes, dtype=torch.int64).dtype == torch.int64
    torch.as_tensor(codes).zero_()
    assert codes == make_codes(2, 3, 8)


def test_torch_without_pytorch_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # what the import system does with a module that is not there
    with pytest.raises(BackendError, match=r"install it with pip install .*\[torch\]\" or use codes\.numpy\(\)"):
        make_codes(2, 8).torch()


def test_sizes_of_samples_of_tiled_images() -> None:
    codes = make_codes(5, 2, 6, 8, layout=LAYOUT)
    assert (codes.shape, codes.num_tokens, len(codes)) == ((5, 2, 6, 8), 8, 5)


@pytest.mark.parametrize(("vocab_size", "bits"), [(2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (257, 9), (65536, 16)])
def test_num_bits_counts_whole_bits_per_code(vocab_size: int, bits: int) -> None:
    assert Codes(np.zeros((3, 7), np.int32), vocab_size, "m", "").num_bits == 21 * bits


def test_repr_is_one_short_line() -> None:
    assert repr(make_codes(2, 8)) == "Codes(shape=(2, 8), vocab_size=16, model='daps-mnist', 64 bits)"
    assert "tiles=2×3" in repr(make_codes(1, 6, 8, layout=LAYOUT))


def test_equal_means_same_values_and_same_origin() -> None:
    codes = make_codes(2, 8)
    assert codes == make_codes(2, 8)
    assert codes != codes[:1]
    assert codes != Codes(codes.values, 16, "another", SHA)
    assert codes != Codes(codes.values, 17, "daps-mnist", SHA)
    assert codes != Codes(codes.values, 16, "daps-mnist", "")
    assert codes != "codes"
    assert make_codes(1, 6, 8) != make_codes(1, 6, 8, layout=LAYOUT)


def test_the_example_of_the_docstring_is_true() -> None:
    assert doctest.testmod(codes_module).failed == 0


# Indexing


def test_indexing_picks_items_as_numpy_does_and_keeps_their_origin() -> None:
    codes = make_codes(5, 4, 8)
    mask = np.array([True, False, True, False, False])
    for key in (0, -1, np.int64(2), slice(1, 3), [3, 1], mask, (2, 3), (slice(None), 0), ([0, 1], [2, 3]), ()):
        picked = codes[key]
        np.testing.assert_array_equal(picked.values, codes.values[key])
        assert (picked.model, picked.weights_sha256, picked.vocab_size) == ("daps-mnist", SHA, 16)


def test_a_mask_over_two_axes_covers_both() -> None:
    codes = make_codes(2, 3, 8)
    mask = np.array([[True, False, True], [False, False, True]])
    np.testing.assert_array_equal(codes[mask].values, codes.values[mask])


def test_an_ellipsis_stands_for_leading_axes_only() -> None:
    codes = make_codes(5, 4, 8)
    assert codes[..., 0] == codes[:, 0]
    assert codes[...] == codes


def test_indexing_never_drops_or_cuts_the_token_axis() -> None:
    for codes, key in ((make_codes(8), 0), (make_codes(2, 8), (0, 1)), (make_codes(2, 3, 8), (..., 0, 0, slice(4)))):
        with pytest.raises(CodesError, match=r"the tokens of an item stay together; use codes\.numpy\(\)"):
            codes[key]


def test_indexing_never_takes_the_tiles_of_an_image_apart() -> None:
    codes = make_codes(5, 2, 6, 8, layout=LAYOUT)
    assert codes[3].layout == codes[3, 1].layout == LAYOUT
    assert codes[3, 1].shape == (6, 8)
    for item, key in ((codes, (0, 0, 0)), (codes, np.ones((5, 2, 6), bool)), (codes[3, 1], 0)):
        with pytest.raises(CodesError, match="the tiles and tokens of an item stay together"):
            item[key]


def test_iterating_gives_one_codes_per_item() -> None:
    codes = make_codes(3, 4, 8)
    assert [item.shape for item in codes] == [(4, 8)] * 3
    assert list(codes)[1] == codes[1]


def test_the_codes_of_one_item_have_no_length_and_no_items() -> None:
    item = make_codes(2, 8)[0]
    with pytest.raises(TypeError, match="num_tokens"):
        len(item)
    with pytest.raises(TypeError, match="num_tokens"):
        iter(item)


def test_an_index_past_the_end_is_an_index_error() -> None:
    with pytest.raises(IndexError, match="out of bounds"):
        make_codes(2, 8)[2]


def test_codes_of_no_items_are_codes_that_no_file_can_hold(tmp_path: Path) -> None:
    nothing = make_codes(2, 8)[2:]
    assert nothing.shape == (0, 8) and len(nothing) == 0 and list(nothing) == []
    assert nothing == make_codes(0, 8) and nothing != make_codes(0, 4)
    with pytest.raises(CodesError, match=r"^codes of shape \(0, 8\) are of no item; a \.daps file holds at least one$"):
        nothing.save(tmp_path / "nothing.daps")
    assert not list(tmp_path.iterdir())


# What is refused


@pytest.mark.parametrize("value", [16, -1, 2**40])
def test_a_code_out_of_range_is_named_with_its_place_and_the_range(value: int) -> None:
    values = np.zeros((2, 3, 4), np.int64)
    values[1, 0, 2] = values[1, 2, 3] = value
    message = rf"^code {value} at index \(1, 0, 2\) is out of range: codes of 'daps-mnist' are 0 to 15$"
    with pytest.raises(CodesError, match=message):
        Codes(values, 16, "daps-mnist", "")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, bool, object, "m8[s]", "U1"])
def test_values_that_are_not_integers_are_refused(dtype: str) -> None:
    with pytest.raises(CodesError, match="codes must be integers, not "):
        Codes(np.zeros((2, 4), dtype=dtype), 16, "m", "")


def test_a_ragged_list_is_refused() -> None:
    with pytest.raises(CodesError, match="codes must be an array of integers, not list"):
        Codes([[1, 2], [3]], 16, "m", "")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_a_shape_without_tokens_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CodesError, match="have no tokens; expected at least one each"):
        make_codes(*shape)


def test_a_single_integer_is_refused() -> None:
    with pytest.raises(CodesError, match="shape must be 1 to 32 positive sizes"):
        make_codes()


def test_an_empty_list_is_refused_as_empty() -> None:
    with pytest.raises(CodesError, match=r"codes of shape \(0,\) have no tokens"):
        Codes([], 16, "m", "")  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["x.daps", Path("x.daps")])
def test_a_path_is_refused_with_what_reads_it(path: object) -> None:
    with pytest.raises(CodesError, match=r"not a path; Codes\.load\('x\.daps'\) reads a \.daps file"):
        Codes(path, 16, "m", "")  # type: ignore[arg-type]


@pytest.mark.parametrize("vocab_size", [1, 65537, True, 4.0, "4", None])
def test_an_impossible_vocab_size_is_refused(vocab_size: int) -> None:
    with pytest.raises(CodesError, match="vocab_size must be an integer from 2 to 65536, not "):
        Codes(np.zeros((1, 1), int), vocab_size, "m", "")


@pytest.mark.parametrize("sha", ["abc", SHA.upper(), SHA + "0", SHA + "\n", None])
def test_a_weights_sha256_that_is_none_is_refused(sha: str) -> None:
    with pytest.raises(CodesError, match="weights_sha256 must be 64 lower-case hex digits or empty"):
        Codes(np.zeros((1, 1), int), 2, "m", sha)


@pytest.mark.parametrize("model", [None, "", "../evil", "a/b", "a\x1b[2J", "é", ".hidden", "n" * 101, "two\n"])
def test_a_model_that_is_not_a_name_is_refused(model: str) -> None:
    with pytest.raises(CodesError, match="model must be a name of letters, digits,"):
        Codes(np.zeros((1, 1), int), 2, model, "")


def test_a_layout_that_is_none_is_refused() -> None:
    with pytest.raises(CodesError, match="layout must be a TileLayout, a ClipLayout or None, not 'tiles'"):
        make_codes(1, 6, 8, layout="tiles")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(6,), (1, 5, 8), (6, 8, 1)])
def test_a_layout_must_have_as_many_tiles_as_the_codes(shape: tuple[int, ...]) -> None:
    with pytest.raises(CodesError, match=r"layout of 6 tiles needs codes of shape \(\.\.\., 6, tokens\), not "):
        make_codes(*shape, layout=LAYOUT)


@pytest.mark.parametrize("key", ["height", "width", "rows", "columns"])
def test_a_layout_holds_sizes_only(key: str) -> None:
    sizes: dict[str, Any] = {"height": 40, "width": 90, "rows": 2, "columns": 3}
    for size in (0, -1, 1.5, True, 2**31):
        with pytest.raises(CodesError, match=rf"layout\.{key} must be an integer from 1 to 2147483647, not "):
            TileLayout(**{**sizes, key: size})
