"""The embedding of a patch sees so many pixels around it, also beyond its window, and no more."""

import pytest
import torch
from torch import nn

from daps_tokenizer.model.recognition import PatchEmbedding

AROUND = 4


@pytest.fixture(scope="module")
def embedding() -> PatchEmbedding:
    torch.manual_seed(0)
    return PatchEmbedding((16, 24, 3), (8, 8), hidden_size=6, surroundings=AROUND)


def patches_that_change(embedding: PatchEmbedding, row: int, column: int) -> set[tuple[int, int]]:
    """Which patches (row, column) have another embedding when one pixel has another value."""
    x = torch.zeros(1, 16, 24, 3)
    before = embedding(x)
    x[0, row, column] = 1.0
    changed = (embedding(x) != before).any(-1).reshape(embedding.rows, embedding.columns)
    return {(int(row), int(column)) for row, column in changed.nonzero()}


@pytest.mark.parametrize(
    ("pixel", "expected"),
    [
        ((3, 3), {(0, 0)}),  # more than four pixels from every other patch
        ((3, 4), {(0, 0), (0, 1)}),
        ((4, 8), {(0, 0), (0, 1), (1, 0), (1, 1)}),
        ((3, 12), {(0, 1), (0, 2)}),
        ((15, 23), {(1, 2)}),
    ],
)
def test_a_pixel_is_seen_by_the_patches_it_is_near(embedding: PatchEmbedding, pixel, expected) -> None:
    assert patches_that_change(embedding, *pixel) == expected


def test_a_patch_and_its_surroundings_are_added(embedding: PatchEmbedding) -> None:
    x = torch.randn(2, 16, 24, 3)
    middle = embedding(x)[:, 1]  # the patch in the first row, second column
    around = nn.functional.pad(x, (0, 0, AROUND, AROUND, AROUND, AROUND))[:, :16, 8:24]
    halves = around.unflatten(2, (8, 2)).unflatten(1, (8, 2)).mean((2, 4)).permute(0, 3, 1, 2)
    assert embedding.surroundings is not None
    seen = (embedding.surroundings.weight * halves[:, None]).sum((2, 3, 4))
    torch.testing.assert_close(middle, embedding.dense(x[:, :8, 8:16].flatten(1)) + seen)


def test_pixels_around_the_image_are_seen_where_they_are_given(embedding: PatchEmbedding) -> None:
    x = torch.randn(2, 16 + 2 * AROUND, 24 + 2 * AROUND, 3)
    inside = x[:, AROUND:-AROUND, AROUND:-AROUND]
    zeros = nn.functional.pad(inside, (0, 0, AROUND, AROUND, AROUND, AROUND))
    torch.testing.assert_close(embedding(zeros), embedding(inside))
    corner = x[:, : 8 + 2 * AROUND, : 8 + 2 * AROUND]
    halves = corner.unflatten(2, (8, 2)).unflatten(1, (8, 2)).mean((2, 4)).permute(0, 3, 1, 2)
    assert embedding.surroundings is not None
    seen = (embedding.surroundings.weight * halves[:, None]).sum((2, 3, 4))
    torch.testing.assert_close(embedding(x)[:, 0], embedding.dense(inside[:, :8, :8].flatten(1)) + seen)


def test_without_surroundings_a_patch_sees_itself_alone() -> None:
    alone = PatchEmbedding((16, 24, 3), (8, 8), hidden_size=6, surroundings=0)
    assert patches_that_change(alone, 7, 8) == {(0, 1)}
