"""Metrics are one value per item, and those of the literature."""

import math

import numpy as np
import pytest

from daps_tokenizer.evaluation.metrics import code_usage, image_metrics, psnr, ssim, summarise, with_interval


def noisy_pairs(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.normal(size=shape), axis=1) * 12 + 128
    noisy = smooth + rng.normal(size=shape) * np.arange(1, shape[0] + 1).reshape(-1, 1, 1, 1) * 8
    original, reconstruction = (x.clip(0, 255).astype(np.uint8) for x in (smooth, noisy))
    return original, reconstruction


def test_psnr_is_in_decibels_and_infinite_for_equal_images() -> None:
    original = np.zeros((2, 4, 4, 1), np.uint8)
    reconstruction = original.copy()
    reconstruction[0] = 51
    assert psnr(original, reconstruction).tolist() == [pytest.approx(20 * math.log10(255 / 51)), math.inf]


def test_each_image_has_a_psnr_of_its_own_not_that_of_the_batch() -> None:
    original, reconstruction = noisy_pairs(5, 16, 12, 3)
    one_by_one = [float(psnr(original[i : i + 1], reconstruction[i : i + 1])[0]) for i in range(5)]
    assert psnr(original, reconstruction).tolist() == pytest.approx(one_by_one)
    assert one_by_one == sorted(one_by_one, reverse=True) and one_by_one[0] > one_by_one[-1] + 5


@pytest.mark.parametrize("shape", [(3, 28, 28, 1), (3, 32, 40, 3), (2, 11, 11, 3)])
def test_ssim_is_the_mean_over_windows_that_stay_inside_the_image(shape: tuple[int, ...]) -> None:
    original, reconstruction = noisy_pairs(*shape)
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    expected = []
    for a, b in zip(original.astype(float), reconstruction.astype(float), strict=True):
        values = []
        for row in range(shape[1] - 10):
            for column in range(shape[2] - 10):
                for channel in range(shape[3]):
                    x, y = (image[row : row + 11, column : column + 11, channel] for image in (a, b))
                    mx, my = (weights * x).sum(), (weights * y).sum()
                    vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
                    cov = (weights * (x - mx) * (y - my)).sum()
                    c1, c2 = 2.55**2, 7.65**2
                    values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
        expected.append(np.mean(values))
    np.testing.assert_allclose(ssim(original, reconstruction), expected, rtol=1e-9)


def test_ssim_and_psnr_are_those_of_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    import torch

    pairs = noisy_pairs(4, 32, 32, 3)
    a, b = (torch.from_numpy(images).double().permute(0, 3, 1, 2) for images in pairs)
    # Theirs also averages over windows that are reflected at the edges, which the paper's does not have.
    _, everywhere = functional.structural_similarity_index_measure(a, b, data_range=255.0, return_full_image=True)
    inside = everywhere[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    np.testing.assert_allclose(ssim(*pairs), inside.numpy(), rtol=1e-6)
    theirs = functional.peak_signal_noise_ratio(a, b, data_range=255.0, reduction="none", dim=(1, 2, 3))
    np.testing.assert_allclose(psnr(*pairs), theirs.numpy(), rtol=1e-6)


def test_equal_images_are_alike_at_any_size_and_their_mean_psnr_stays_finite() -> None:
    for size in (1, 4, 11, 30):
        images = np.random.default_rng(size).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
        assert ssim(images, images) == pytest.approx([1, 1])
        assert image_metrics(images, images)["psnr"].tolist() == [100, 100]


def test_code_usage_counts_over_all_positions() -> None:
    usage = code_usage(np.array([[0, 1], [1, 0], [0, 1]]), 5)
    assert usage == {"code_perplexity": pytest.approx(2), "codes_used": 2, "dead_codes": 3}


def test_the_interval_holds_the_mean_and_narrows_with_more_items() -> None:
    values = np.random.default_rng(0).normal(size=4000)
    few, many = with_interval(values[:40], 0), with_interval(values, 0)
    assert few["low"] < few["mean"] < few["high"]
    assert many["high"] - many["low"] < (few["high"] - few["low"]) / 3
    assert summarise({"a": values, "b": values + 1}, 0)["b"]["mean"] == pytest.approx(many["mean"] + 1)
