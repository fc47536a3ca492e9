"""An image of any size is cut into a grid of tiles, and put together again exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daps_tokenizer.codes.layouts import TileLayout
from daps_tokenizer.errors import CodesError
from daps_tokenizer.images.tiles import cut_tiles, join_tiles


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3])),
    tile=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
@settings(max_examples=200, deadline=None)
def test_joining_undoes_cutting(size: tuple[int, int, int], tile: tuple[int, int]) -> None:
    image = noise(*size)
    tiles, layout = cut_tiles(image, *tile)
    assert tiles.shape == (layout.rows * layout.columns, *tile, size[2]) and tiles.dtype == np.uint8
    assert (layout.height, layout.width) == size[:2]
    np.testing.assert_array_equal(join_tiles(tiles, layout), image)


def test_tiles_run_row_by_row_and_the_last_ones_repeat_the_edge() -> None:
    image = noise(10, 12, 3)
    tiles, layout = cut_tiles(image, 8, 8)
    assert layout == TileLayout(height=10, width=12, rows=2, columns=2)
    np.testing.assert_array_equal(tiles[0], image[:8, :8])
    np.testing.assert_array_equal(tiles[1][:, :4], image[:8, 8:])
    np.testing.assert_array_equal(tiles[1][:, 4:], np.repeat(image[:8, -1:], 4, axis=1))
    np.testing.assert_array_equal(tiles[2][:2], image[8:, :8])


def test_an_image_no_larger_than_a_tile_is_one_tile() -> None:
    for size in ((8, 8), (3, 5), (1, 1)):
        assert len(cut_tiles(noise(*size, 1), 8, 8)[0]) == 1


def test_tiles_stay_as_they_are() -> None:
    _, layout = cut_tiles(np.zeros((8, 16, 1), np.uint8), 8, 8)
    dark, bright = np.full((8, 8, 1), 0, np.uint8), np.full((8, 8, 1), 200, np.uint8)
    assert join_tiles(np.stack([dark, bright]), layout)[0, :, 0].tolist() == [0] * 8 + [200] * 8


@pytest.mark.parametrize(
    "layout",
    [
        TileLayout(height=16, width=16, rows=2, columns=3),
        TileLayout(height=17, width=16, rows=2, columns=2),
        TileLayout(height=16, width=8, rows=2, columns=2),
    ],
)
def test_tiles_of_another_layout_are_refused(layout: TileLayout) -> None:
    with pytest.raises(CodesError, match=f"4 tiles of 8×8 do not make an image of {layout.height}×{layout.width}"):
        join_tiles(noise(4, 8, 8, 1), layout)
