"""An image of any size is cut into a grid of tiles, and put together again exactly."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daps_tokenizer.codes.layouts import TileLayout
from daps_tokenizer.errors import CodesError
from daps_tokenizer.images.tiles import cut_tiles, join_tiles, with_surroundings


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


@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    tile=st.tuples(st.integers(3, 40), st.integers(3, 40)),
    margin=st.integers(1, 3),
)
@settings(max_examples=100, deadline=None)
def test_around_a_tile_are_its_neighbours_and_beyond_the_image_what_is_given(
    size: tuple[int, int], tile: tuple[int, int], margin: int
) -> None:
    images, beyond = [noise(*size, 3), noise(*size, 3)[::-1]], np.array([10, 20, 30], np.uint8)
    cut = [cut_tiles(image, *tile) for image in images]
    tiles, layout = np.concatenate([tiles for tiles, _ in cut]), cut[0][1]
    surrounded = with_surroundings(tiles, layout, margin, beyond, range(1, len(tiles)))
    expected = []
    for image in images:
        missing = (layout.rows * tile[0] - size[0], layout.columns * tile[1] - size[1])
        filled = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        whole = np.full((filled.shape[0] + 2 * margin, filled.shape[1] + 2 * margin, 3), beyond)
        whole[margin:-margin, margin:-margin] = filled
        for row, column in itertools.product(range(layout.rows), range(layout.columns)):
            top, left = row * tile[0], column * tile[1]
            expected.append(whole[top : top + tile[0] + 2 * margin, left : left + tile[1] + 2 * margin])
    np.testing.assert_array_equal(surrounded, np.stack(expected)[1:])


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
