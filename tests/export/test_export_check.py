"""The parity report fails wherever a graph computes something else than torch, and only there."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import export.check
from daps_tokenizer.backends.onnx import OnnxBackend
from daps_tokenizer.hub import ModelFolder, open_model
from daps_tokenizer.model.autoencoder import Autoencoder
from export.check import NEAR_EDGE, NEAR_TIE, ParityReport, _failures, compare, random_inputs
from export.differences import first_sampled_differences, top_codes_gap
from tests.settings import TINY_MLP

Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def folder(random_motion_folder: Path) -> ModelFolder:
    return open_model(random_motion_folder)


def compare_changed(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, method: str, value: str, change: Change
) -> ParityReport:
    """The report where one value that the graphs give is another."""
    unchanged = getattr(OnnxBackend, method)

    def changed(self: OnnxBackend, *arguments: object) -> object:
        found = unchanged(self, *arguments)
        return found._replace(**{value: change(getattr(found, value))})

    monkeypatch.setattr(OnnxBackend, method, changed)
    return compare(folder, random_inputs(folder.config, 2))


@pytest.mark.parametrize(
    ("method", "value", "failure"),
    [
        ("encode", "log_probs", "encoder.onnx: log q of equal codes differs"),
        ("score", "log_probs", "scorer.onnx: log q of equal codes differs"),
        ("decode", "reconstruction", "decoder.onnx: features of equal codes differs"),
        ("decode", "mean", "decoder.onnx: the mean of equal codes differs"),
        ("decode", "variance", "decoder.onnx: the variance of equal codes differs"),
        ("likelihood", "log_likelihood", "likelihood.onnx: log p or squared error of equal codes differs"),
        ("likelihood", "squared_error", "likelihood.onnx: log p or squared error of equal codes differs"),
    ],
)
@pytest.mark.parametrize("change", [lambda a: a * np.nan, lambda a: 1.01 * a], ids=["not a number", "off"])
def test_every_value_of_every_graph_is_compared(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, method: str, value: str, failure: str, change: Change
) -> None:
    (found,) = compare_changed(folder, monkeypatch, method, value, change).failures
    assert found.startswith(failure)


def test_most_probable_codes_in_the_wrong_order_fail(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    report = compare_changed(folder, monkeypatch, "score", "top_codes", lambda codes: np.flip(codes, -1).copy())
    (found,) = report.failures
    assert found.startswith("scorer.onnx: other codes are the most probable, or in another order")
    assert report.top_codes_equal == 0


def test_codes_that_are_sampled_by_other_numbers_fail(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = OnnxBackend.encode
    monkeypatch.setattr(OnnxBackend, "encode", lambda self, x, uniform, t: encode(self, x, 1 - uniform, t))
    report = compare(folder, random_inputs(folder.config, 2))
    assert report.greedy_items_equal == 1 and report.sampled_items_equal == 0
    found = [failure for failure in report.failures if failure.startswith("encoder.onnx: item")]
    assert len(found) == 2 and "where the uniform number is" in found[0]


@pytest.mark.parametrize(
    ("encode", "graph"), [("encode_in_passes", "encoder_pass"), ("encode_by_steps", "encoder_step")]
)
def test_graphs_for_gpus_are_compared_when_they_sample_too(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, encode: str, graph: str
) -> None:
    unchanged, inputs = getattr(export.check, encode), random_inputs(folder.config, 2)
    with monkeypatch.context() as patched:
        patched.setattr(export.check, encode, lambda folder, x, uniform, t: unchanged(folder, x, 1 - uniform, t))
        found = compare(folder, inputs).failures
    assert len(found) == 2 and all(failure.startswith(f"{graph}.onnx: item") for failure in found)
    monkeypatch.setattr(
        export.check, encode, lambda *given: (e := unchanged(*given))._replace(log_probs=e.log_probs / 2)
    )
    (found_one,) = compare(folder, inputs).failures
    assert found_one.startswith(f"{graph}.onnx: log q of equal codes differs")


def test_images_with_their_surroundings_are_compared_too(
    random_grid_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs that look at the pixels inside alone are found."""
    folder = open_model(random_grid_folder)
    around = folder.config.recognition.surroundings
    assert compare(folder, random_inputs(folder.config, 2)).passed

    def blind(images: np.ndarray) -> np.ndarray:
        return images if images.shape[1] == 16 else images[:, around:-around, around:-around]

    for owner, name, graph in (
        (OnnxBackend, "encode", "encoder"),
        (OnnxBackend, "score", "scorer"),
        (export.check, "encode_in_passes", "encoder_context"),
    ):
        unchanged = getattr(owner, name)
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, lambda first, x, *rest: unchanged(first, blind(x), *rest))  # noqa: B023
            (found,) = compare(folder, random_inputs(folder.config, 2)).failures
        assert found.startswith(f"{graph}.onnx: log q of images with their surroundings differs")


def test_a_uniform_number_next_to_the_edge_between_two_codes_explains_a_difference() -> None:
    model = Autoencoder(TINY_MLP).eval()
    torch.nn.init.zeros_(model.recognition.head.weight)
    torch.nn.init.zeros_(model.recognition.head.bias)  # 16 codes, equally probable: code 3 ends at 4/16
    inputs, uniform = random_inputs(TINY_MLP, 1), np.full((1, 8), 0.25 + 1e-6, np.float32)
    ours, others = (np.full((1, 8), code, np.int32) for code in (4, 3))
    (near,) = first_sampled_differences(model, inputs, ours, others, uniform)
    assert near.position == 0 and near.edge_gap < NEAR_EDGE
    (far,) = first_sampled_differences(model, inputs, ours, others - 1, uniform)
    assert far.edge_gap == pytest.approx(1 / 16, abs=1e-4)


def test_graphs_that_compute_what_torch_does_pass(folder: ModelFolder) -> None:
    report = compare(folder, random_inputs(folder.config, 2))
    assert report.passed and report.top_codes_gap < NEAR_TIE


def test_codes_that_are_nearly_as_probable_may_be_in_either_order() -> None:
    model = Autoencoder(TINY_MLP).eval()
    torch.nn.init.zeros_(model.recognition.head.weight)
    with torch.no_grad():
        model.recognition.head.bias[:3] = torch.tensor([2.0, 2.0 + NEAR_TIE / 2, 1.0])
    inputs, codes = random_inputs(TINY_MLP, 1), np.zeros((1, 8), np.int32)
    ours, swapped, wrong = (np.tile(np.array(order, np.int32), (1, 8, 1)) for order in ([1, 0], [0, 1], [1, 2]))
    assert top_codes_gap(model, inputs, codes, ours, ours) == 0
    assert 0 < top_codes_gap(model, inputs, codes, ours, swapped) < NEAR_TIE
    assert top_codes_gap(model, inputs, codes, ours, wrong) == pytest.approx(1, abs=1e-3)


def test_log_q_may_differ_by_a_few_roundings_of_the_largest_logit(folder: ModelFolder) -> None:
    report = compare(folder, random_inputs(folder.config, 2))
    assert 0 < report.largest_logit < 100
    coarse = dataclasses.replace(report, log_prob_difference=2e-3, largest_logit=20_000.0)  # 1 rounding: 0.0024
    assert not list(_failures(coarse, folder.config))
    fine = dataclasses.replace(coarse, largest_logit=report.largest_logit)
    assert list(_failures(fine, folder.config)) == ["encoder.onnx: log q of equal codes differs by 0.002 nats"]
