"""How equal are torch and the exported graphs? Measured on real test images, as numbers to judge and to publish."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from daps_tokenizer.backends.onnx import OnnxBackend
from daps_tokenizer.backends.onnx_captured import CapturedEncoder
from daps_tokenizer.backends.protocol import Backend, Encoded, Scored
from daps_tokenizer.backends.torch import TorchBackend
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.data.datasets import open_data
from daps_tokenizer.errors import DapsError, InputError
from daps_tokenizer.hub import ModelFolder
from export.differences import (
    FirstDifference,
    FirstSampledDifference,
    first_differences,
    first_sampled_differences,
    largest,
    largest_logit,
    top_codes_gap,
)
from train.data import open_trained_data

# Two runtimes may part where two logits are nearer to each other than their rounding errors.
NEAR_TIE = 1e-4
# ... or where a uniform number is nearer to the edge between two codes than the sum of V probabilities is exact.
NEAR_EDGE = 1e-4
# What rounding explains, and a wrong graph far exceeds: nats of log q, levels of a pixel, share of anything else.
_LOG_PROB_TOLERANCE = 1e-3
# ... or this many roundings of the largest logit, which code books make so large that float32 is coarser than that.
_LOGIT_ROUNDINGS = 4
_LEVEL_TOLERANCE = 1.0
_RELATIVE_TOLERANCE = 1e-4
_STEPPED_ITEMS = 32
_TOP_CODES = 4
_CHECKED_GRID = 9, 5


@dataclass(frozen=True)
class ParityReport:
    """Torch against ONNX Runtime on the same inputs. Rates are shares from 0 to 1, log-probabilities are in nats.

    What a model has not (steps, where it encodes in one pass; probabilities, of a quantiser) counts as equal.

    ``sampled`` is temperature 1 and the same uniform numbers; ``pass_*`` and ``step_*`` are the graphs for GPUs, on the
    first items. Differences are the largest absolute ones, on equal codes: of log q as ``encode`` and ``score``
    give, of reconstructed levels or features; ``top_codes_gap`` of torch's log q of the codes that either runtime ranks
    alike. Those of log p and squared error per cell, of features, mean and variance are relative to the largest value.
    """

    model: str
    weights_sha256: str
    torch_version: str
    onnxruntime_version: str
    num_items: int
    greedy_items_equal: float
    greedy_codes_equal: float
    first_differences: tuple[FirstDifference, ...]
    sampled_items_equal: float
    sampled_codes_equal: float
    sampled_first_differences: tuple[FirstSampledDifference, ...]
    pass_items_equal: float
    pass_first_differences: tuple[FirstDifference, ...]
    pass_sampled_items_equal: float
    pass_sampled_first_differences: tuple[FirstSampledDifference, ...]
    pass_log_prob_difference: float
    step_items_equal: float
    step_first_differences: tuple[FirstDifference, ...]
    step_sampled_items_equal: float
    step_sampled_first_differences: tuple[FirstSampledDifference, ...]
    step_log_prob_difference: float
    largest_logit: float
    log_prob_difference: float
    score_difference: float
    top_codes_equal: float
    top_codes_gap: float
    likelihood_difference: float
    reconstruction_difference: float
    reconstruction_values_differing: float
    features_difference: float
    mean_difference: float
    variance_difference: float
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every difference can be told from an error."""
        return not self.failures


def compare(folder: ModelFolder, inputs: np.ndarray) -> ParityReport:
    """Run everything a model can do on both runtimes.

    Args:
        folder: a model folder with all its graphs.
        inputs: uint8 images (B, height, width, channels) or float32 features (B, frames, features).

    Raises:
        ModelFileError: a graph is missing or cannot be loaded.
    """
    config = folder.config
    ours, others = TorchBackend.open(folder), OnnxBackend.open(folder)
    uniform = np.random.default_rng(0).random((len(inputs), config.num_tokens), dtype=np.float32)
    greedy = [backend.encode(inputs, uniform, 0.0) for backend in (ours, others)]
    sampled = [backend.encode(inputs, uniform, 1.0) for backend in (ours, others)]
    codes = greedy[0].codes
    first = slice(_STEPPED_ITEMS)
    drawn = [Encoded(*(values[first] for values in encoded)) for encoded in (greedy[0], sampled[0])]
    in_passes, stepped = drawn, drawn
    if config.recognition.kind == "autoregressive":
        for_gpus = (folder, inputs[first], uniform[first])
        in_passes, stepped = (
            [encode(*for_gpus, t) for t in (0.0, 1.0)] for encode in (encode_in_passes, encode_by_steps)
        )

    def apart_when_greedy(others: np.ndarray) -> tuple[FirstDifference, ...]:
        return first_differences(ours.model, inputs, codes[: len(others)], others)

    def apart_when_sampled(others: np.ndarray) -> tuple[FirstSampledDifference, ...]:
        if not config.recognition.has_probabilities:  # a quantiser draws nothing: its sampled codes are its greedy ones
            return ()
        return first_sampled_differences(ours.model, inputs, sampled[0].codes[: len(others)], others, uniform)

    decoded = [backend.decode(codes) for backend in (ours, others)]
    reconstructions = [found.reconstruction.astype(np.float64) for found in decoded]
    scored = [_score(backend, config, inputs, codes) for backend in (ours, others)]
    explained = [backend.likelihood(inputs, codes) for backend in (ours, others)]
    top_codes = [found.top_codes for found in scored]
    report = ParityReport(
        model=config.name,
        weights_sha256=config.weights_sha256,
        torch_version=torch.__version__,
        onnxruntime_version=onnxruntime.__version__,
        num_items=len(inputs),
        greedy_items_equal=_items_equal(codes, greedy[1].codes),
        greedy_codes_equal=_share(codes == greedy[1].codes),
        first_differences=apart_when_greedy(greedy[1].codes),
        sampled_items_equal=_items_equal(sampled[0].codes, sampled[1].codes),
        sampled_codes_equal=_share(sampled[0].codes == sampled[1].codes),
        sampled_first_differences=apart_when_sampled(sampled[1].codes),
        pass_items_equal=_items_equal(drawn[0].codes, in_passes[0].codes),
        pass_first_differences=apart_when_greedy(in_passes[0].codes),
        pass_sampled_items_equal=_items_equal(drawn[1].codes, in_passes[1].codes),
        pass_sampled_first_differences=apart_when_sampled(in_passes[1].codes),
        pass_log_prob_difference=_log_prob_difference(drawn, in_passes),
        step_items_equal=_items_equal(drawn[0].codes, stepped[0].codes),
        step_first_differences=apart_when_greedy(stepped[0].codes),
        step_sampled_items_equal=_items_equal(drawn[1].codes, stepped[1].codes),
        step_sampled_first_differences=apart_when_sampled(stepped[1].codes),
        step_log_prob_difference=_log_prob_difference(drawn, stepped),
        largest_logit=largest_logit(ours.model, inputs, codes) if config.recognition.has_probabilities else 0.0,
        log_prob_difference=_log_prob_difference([greedy[0], sampled[0]], [greedy[1], sampled[1]]),
        score_difference=largest(scored[0].log_probs - scored[1].log_probs),
        top_codes_equal=_share(top_codes[0] == top_codes[1]),
        top_codes_gap=top_codes_gap(ours.model, inputs, codes, *top_codes),
        # Cells of nearly no nats or error are as good as their rounding, which is that of numbers around 1.
        likelihood_difference=largest(
            np.array([_relative(*pair, at_least=1.0) for pair in zip(*explained, strict=True)])
        ),
        reconstruction_difference=largest(reconstructions[0] - reconstructions[1]),
        reconstruction_values_differing=_share(reconstructions[0] != reconstructions[1]),
        features_difference=_relative(*reconstructions) if config.modality == "motion" else 0.0,
        mean_difference=_relative(decoded[0].mean, decoded[1].mean),
        variance_difference=_relative(decoded[0].variance, decoded[1].variance),
    )
    others_failures = (*grid_failures(ours, others, config), *surroundings_failures(folder, ours, others))
    return dataclasses.replace(report, failures=(*_failures(report, config), *others_failures))


def grid_failures(ours: Backend, others: Backend, config: TokenizerConfig) -> Iterator[str]:
    """A line for each graph that differs from torch on a grid of another size than the model's own, of random codes."""
    if config.token_grid is None:
        return
    rng, cell = np.random.default_rng(0), config.input_shape[0] // config.token_grid[0]
    (rows, columns), channels = _CHECKED_GRID, config.input_shape[2]
    codes = rng.integers(0, config.vocab_size, (2, rows, columns), dtype=np.int32)
    images = rng.integers(0, 256, (2, rows * cell, columns * cell, channels), dtype=np.uint8)
    size = f"a grid of {rows}×{columns} codes"
    decoded = [backend.decode(codes).reconstruction.astype(np.float64) for backend in (ours, others)]
    difference = largest(decoded[0] - decoded[1])
    if not (difference <= _LEVEL_TOLERANCE):
        yield f"decoder.onnx: {size} is decoded {difference:.0f} levels apart"
    explained = [backend.likelihood(images, codes).log_likelihood for backend in (ours, others)]
    share = _relative(explained[0], explained[1], at_least=1.0)
    if not (share <= _RELATIVE_TOLERANCE):
        yield f"likelihood.onnx: log p of {size} differs by a share of {share:.2g}"


def surroundings_failures(folder: ModelFolder, ours: Backend, others: Backend) -> Iterator[str]:
    """A line for each graph that differs from torch on images of noise with the pixels around them."""
    config, around = folder.config, folder.config.recognition.surroundings
    if not around or not config.recognition.has_probabilities:
        return
    rng, (height, width, channels) = np.random.default_rng(0), config.input_shape
    images = rng.integers(0, 256, (2, height + 2 * around, width + 2 * around, channels), dtype=np.uint8)
    uniform = rng.random((2, config.num_tokens), dtype=np.float32)
    encoded = others.encode(images, uniform, 1.0)
    found = {"encoder.onnx": encoded, "scorer.onnx": Encoded(encoded.codes, others.score(images, encoded.codes, 1)[0])}
    if config.recognition.kind == "autoregressive":
        found["encoder_context.onnx"] = encode_in_passes(folder, images, uniform, 1.0)
    for graph, (codes, log_probs) in found.items():
        nats = largest(log_probs - ours.score(images, codes, 1).log_probs)
        if not (nats <= _LOG_PROB_TOLERANCE):
            yield f"{graph}: log q of images with their surroundings differs by {nats:.2g} nats"


def _score(backend: Backend, config: TokenizerConfig, inputs: np.ndarray, codes: np.ndarray) -> Scored:
    """log q of codes, and the best codes; of a quantiser what holds of its own codes without any graph."""
    if not config.recognition.has_probabilities:
        return Scored(np.zeros(codes.shape, np.float32), codes[..., None])
    return backend.score(inputs, codes, min(_TOP_CODES, config.vocab_size))


def _failures(report: ParityReport, config: TokenizerConfig) -> Iterator[str]:
    """A line for everything that rounding does not explain; what is not a number is nowhere within a tolerance."""
    for graph, differences in (
        ("encoder.onnx", report.first_differences),
        ("encoder_pass.onnx", report.pass_first_differences),
        ("encoder_step.onnx", report.step_first_differences),
    ):
        for difference in differences:
            if not (difference.top2_gap < NEAR_TIE):
                yield (
                    f"{graph}: item {difference.item} differs first at code {difference.position}, where torch's two "
                    f"largest logits are {difference.top2_gap:.2g} apart"
                )
    for graph, sampled_differences in (
        ("encoder.onnx", report.sampled_first_differences),
        ("encoder_pass.onnx", report.pass_sampled_first_differences),
        ("encoder_step.onnx", report.step_sampled_first_differences),
    ):
        for sampled in sampled_differences:
            if not (sampled.edge_gap < NEAR_EDGE):
                yield (
                    f"{graph}: item {sampled.item}, sampled, differs first at code {sampled.position}, where the "
                    f"uniform number is {sampled.edge_gap:.2g} from the edge between the two codes"
                )
    rounding = float(np.finfo(np.float32).eps) * report.largest_logit
    log_prob_tolerance = max(_LOG_PROB_TOLERANCE, _LOGIT_ROUNDINGS * rounding)
    for graph, nats in (
        ("encoder.onnx", report.log_prob_difference),
        ("encoder_pass.onnx", report.pass_log_prob_difference),
        ("encoder_step.onnx", report.step_log_prob_difference),
        ("scorer.onnx", report.score_difference),
    ):
        if not (nats <= log_prob_tolerance):
            yield f"{graph}: log q of equal codes differs by {nats:.2g} nats"
    if not (report.top_codes_gap < NEAR_TIE):
        yield (
            "scorer.onnx: other codes are the most probable, or in another order, and torch's log q of them is "
            f"{report.top_codes_gap:.2g} nats apart"
        )
    for what, share in (
        ("likelihood.onnx: log p or squared error", report.likelihood_difference),
        ("decoder.onnx: features", report.features_difference),
        ("decoder.onnx: the mean", report.mean_difference),
        ("decoder.onnx: the variance", report.variance_difference),
    ):
        if not (share <= _RELATIVE_TOLERANCE):
            yield f"{what} of equal codes differs by a share of {share:.2g}"
    if config.modality == "image" and not (report.reconstruction_difference <= _LEVEL_TOLERANCE):
        yield f"decoder.onnx: equal codes are decoded {report.reconstruction_difference:.0f} levels apart"


def encode_by_steps(folder: ModelFolder, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Encoded:
    """Encode with ``encoder_context.onnx`` and ``encoder_step.onnx``, one call a position, as on a GPU at worst."""
    return _encode_captured(folder, inputs, uniform, temperature, max_passes=0)


def encode_in_passes(folder: ModelFolder, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Encoded:
    """Encode with ``encoder_context.onnx`` and ``encoder_pass.onnx`` alone, which takes N + 1 passes at most."""
    return _encode_captured(folder, inputs, uniform, temperature, max_passes=folder.config.codes_per_window + 1)


def _encode_captured(
    folder: ModelFolder, inputs: np.ndarray, uniform: np.ndarray, temperature: float, *, max_passes: int
) -> Encoded:
    folder.file("onnx/weights.bin")

    def session(name: str) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(folder.file(f"onnx/{name}.onnx"), providers=["CPUExecutionProvider"])

    encoder = CapturedEncoder(session, folder.config, inputs.shape, device="cpu", max_passes=max_passes)
    return Encoded(*encoder.run(inputs, uniform, temperature))


def load_test_inputs(
    config: TokenizerConfig, data: Path | None = None, count: int = 1000, *, source: Path | None = None
) -> np.ndarray:
    """The first ``count`` items to compare runtimes on: uint8 images of the model's size, or float32 windows of motion.

    Args:
        config: the model's.
        data: the folder of the datasets; see :func:`daps_tokenizer.data.place.data_folder`.
        source: anything that :func:`~daps_tokenizer.data.datasets.open_data` takes. Without it the test items of the
            data that the model was trained on, as its record names them.

    Raises:
        InputError: there is no such data, or the model's record names none.
    """
    if source is not None:
        chosen = open_data(source, config, limit=count)
        return chosen.read(np.arange(len(chosen)))
    named = config.training.get("experiment", {})
    if "dataset" not in named:
        raise InputError(f"{config.name}: its record names no data that it was trained on; name some with --images")
    try:
        test = open_trained_data(named, config, data).test
        return test.read(np.arange(min(count, len(test))), seed=(0,))
    except DapsError as error:
        raise InputError(
            f"{config.name}: no test items ({error}); name some with --images, or their folder with --data"
        ) from error


def random_inputs(config: TokenizerConfig, count: int) -> np.ndarray:
    """Noise in a model's input units, enough to tell a wrong graph from a right one."""
    rng = np.random.default_rng(0)
    if config.modality == "image":
        return rng.integers(0, 256, (count, *config.input_shape), dtype=np.uint8)
    noise = rng.standard_normal((count, *config.input_shape))
    return (noise * config.normalisation.std + config.normalisation.mean).astype(np.float32)


def _log_prob_difference(ours: Sequence[Encoded], others: Sequence[Encoded]) -> float:
    """Over all codes that both runtimes chose given the same earlier codes, greedy and sampled."""
    found = []
    for our, other in zip(ours, others, strict=True):
        same_so_far = (our.codes == other.codes).cumprod(1).astype(bool)
        found.append(largest((our.log_probs - other.log_probs)[same_so_far]))
    return largest(np.array(found))


def _items_equal(ours: np.ndarray, others: np.ndarray) -> float:
    return _share((ours == others).all(1))


def _share(condition: np.ndarray) -> float:
    return float(condition.mean())


def _relative(ours: np.ndarray, others: np.ndarray, *, at_least: float = 0.0) -> float:
    """The largest difference, as a share of the largest value or of ``at_least``."""
    scale = max(at_least, largest(ours)) or 1.0
    return largest(ours.astype(np.float64) - others) / scale
