"""How equal are torch and the exported graphs? Measured on real test images, as numbers to judge and to publish."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from torch import Tensor

from daps_tokenizer.backends import Backend, Encoded, Scored
from daps_tokenizer.backends.onnx import OnnxBackend
from daps_tokenizer.backends.torch import TorchBackend
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import InputError
from daps_tokenizer.hub import ModelFolder
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.parallel import LevelQuantiser, NearestQuantiser
from daps_tokenizer.motion.features import FEATURE_NAMES, FPS, compute_features
from daps_tokenizer.motion.windows import cut_windows
from daps_tokenizer.windows import Windows
from export.onnx_graphs import context_names, input_name, memory_names

# Two runtimes may part where two logits are nearer to each other than their rounding errors.
NEAR_TIE = 1e-4
# What rounding explains, and a wrong graph far exceeds: nats of log q, share of log p, levels of a pixel.
_LOG_PROB_TOLERANCE = 1e-3
_LIKELIHOOD_TOLERANCE = 1e-4
_LEVEL_TOLERANCE = 1.0
_STEPPED_ITEMS = 32
_TOP_CODES = 4


@dataclass(frozen=True)
class FirstDifference:
    """Where the greedy codes of an item first differ, and the gap between torch's two largest logits there."""

    item: int
    position: int
    top2_gap: float


@dataclass(frozen=True)
class ParityReport:
    """Torch against ONNX Runtime on the same inputs. Rates are shares from 0 to 1, log-probabilities are in nats.

    What a model has not (steps, where it encodes in one pass; probabilities, of a quantiser) counts as equal.

    ``sampled_*`` use temperature 1 and the same uniform numbers, ``step_*`` the fixed-capacity step graphs on the
    first items. Differences are the largest absolute ones, on equal codes: of log q as ``encode`` and ``score`` give,
    of log p per cell (relative to the largest), of reconstructed levels or features.
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
    step_items_equal: float
    step_first_differences: tuple[FirstDifference, ...]
    log_prob_difference: float
    score_difference: float
    top_codes_equal: float
    likelihood_difference: float
    reconstruction_difference: float
    reconstruction_values_differing: float
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
    has_steps = config.recognition.kind == "autoregressive"
    ours, others = TorchBackend.open(folder), OnnxBackend.open(folder)
    uniform = np.random.default_rng(0).random((len(inputs), config.num_tokens), dtype=np.float32)
    greedy = [backend.encode(inputs, uniform, 0.0) for backend in (ours, others)]
    sampled = [backend.encode(inputs, uniform, 1.0) for backend in (ours, others)]
    codes = greedy[0].codes
    first = slice(_STEPPED_ITEMS)
    stepped = encode_by_steps(folder, inputs[first], uniform[first], 0.0).codes if has_steps else codes[first]
    decoded = [backend.decode(codes).reconstruction.astype(np.float64) for backend in (ours, others)]
    scored = [_score(backend, config, inputs, codes) for backend in (ours, others)]
    explained = [backend.likelihood(inputs, codes).log_likelihood for backend in (ours, others)]
    report = ParityReport(
        model=config.name,
        weights_sha256=config.files["model.safetensors"],
        torch_version=torch.__version__,
        onnxruntime_version=onnxruntime.__version__,
        num_items=len(inputs),
        greedy_items_equal=_items_equal(codes, greedy[1].codes),
        greedy_codes_equal=_share(codes == greedy[1].codes),
        first_differences=_first_differences(ours.model, inputs, codes, greedy[1].codes),
        sampled_items_equal=_items_equal(sampled[0].codes, sampled[1].codes),
        sampled_codes_equal=_share(sampled[0].codes == sampled[1].codes),
        step_items_equal=_items_equal(codes[first], stepped),
        step_first_differences=_first_differences(ours.model, inputs, codes[first], stepped),
        log_prob_difference=max(_log_prob_difference(*greedy), _log_prob_difference(*sampled)),
        score_difference=_largest(scored[0].log_probs - scored[1].log_probs),
        top_codes_equal=_share(scored[0].top_codes == scored[1].top_codes),
        likelihood_difference=_largest(explained[0] - explained[1]) / max(1.0, _largest(explained[0])),
        reconstruction_difference=_largest(decoded[0] - decoded[1]),
        reconstruction_values_differing=_share(decoded[0] != decoded[1]),
    )
    return dataclasses.replace(report, failures=tuple(_failures(report, config)))


def _score(backend: Backend, config: TokenizerConfig, inputs: np.ndarray, codes: np.ndarray) -> Scored:
    """log q of codes, and the best codes; of a quantiser what holds of its own codes without any graph."""
    if not config.recognition.has_probabilities:
        return Scored(np.zeros(codes.shape, np.float32), codes[..., None])
    return backend.score(inputs, codes, min(_TOP_CODES, config.vocab_size))


def _failures(report: ParityReport, config: TokenizerConfig) -> Iterator[str]:
    """A line for everything that rounding does not explain."""
    for graph, differences in (
        ("encoder.onnx", report.first_differences),
        ("encoder_step.onnx", report.step_first_differences),
    ):
        for difference in differences:
            if difference.top2_gap >= NEAR_TIE:
                yield (
                    f"{graph}: item {difference.item} differs first at code {difference.position}, where torch's two "
                    f"largest logits are {difference.top2_gap:.2g} apart"
                )
    log_prob_difference = max(report.log_prob_difference, report.score_difference)
    if log_prob_difference > _LOG_PROB_TOLERANCE:
        yield f"encoder.onnx or scorer.onnx: log q of equal codes differs by {log_prob_difference:.2g} nats"
    if report.likelihood_difference > _LIKELIHOOD_TOLERANCE:
        yield f"likelihood.onnx: log p of equal codes differs by a share of {report.likelihood_difference:.2g}"
    if config.modality == "image" and report.reconstruction_difference > _LEVEL_TOLERANCE:
        yield f"decoder.onnx: equal codes are decoded {report.reconstruction_difference:.0f} levels apart"


def encode_by_steps(folder: ModelFolder, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Encoded:
    """Encode with ``encoder_context.onnx`` and ``encoder_step.onnx``, one call a position, as a TensorRT loop would."""
    config = folder.config
    folder.file("onnx/weights.bin")
    context_graph, step_graph = (
        onnxruntime.InferenceSession(folder.file(f"onnx/{name}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("encoder_context", "encoder_step")
    )
    context = context_graph.run(context_names(config), {input_name(config): inputs})
    sizes = config.recognition
    windows = Windows.of(config)
    rows = windows.split(uniform, len(inputs))
    capacity = (len(rows), sizes.num_heads, windows.num_codes, sizes.hidden_size // sizes.num_heads)
    past_names = memory_names("past", config)
    past = [np.zeros(capacity, np.float32) for _ in past_names]
    fixed = dict(zip(context_names(config), context, strict=True))
    fixed["temperature"] = np.array(temperature, np.float32)
    previous = np.zeros(len(rows), np.int32)
    codes, log_probs = [], []
    for position in range(windows.num_codes):
        moving = {"position": np.array(position), "previous": previous, "uniform": rows[:, position]}
        outputs = step_graph.run(None, fixed | moving | dict(zip(past_names, past, strict=True)))
        previous, log_prob, *past = outputs
        codes.append(previous)
        log_probs.append(log_prob)
    return Encoded(*(windows.join(np.stack(steps, 1), len(inputs)) for steps in (codes, log_probs)))


def load_test_inputs(config: TokenizerConfig, data: Path, count: int) -> np.ndarray:
    """The first ``count`` test items of the data set whose items have the model's size: uint8 images, or windows of the
    features of a validation clip, float32.

    Raises:
        InputError: no data set has such images, or it is not in ``data``.
    """
    readers = {(28, 28, 1): _mnist_test, (32, 32, 3): _cifar10_test, (32, len(FEATURE_NAMES)): _motion_test}
    if config.input_shape not in readers:
        known = ", ".join("×".join(map(str, shape)) for shape in readers)
        raise InputError(f"no test images of shape {list(config.input_shape)} are known; there are some of {known}")
    try:
        return readers[config.input_shape](data, count)
    except OSError as error:
        raise InputError(
            f"{data}: no test images for {config.name} ({error}); name their folder with --data"
        ) from error


def random_inputs(config: TokenizerConfig, count: int) -> np.ndarray:
    """Noise in a model's input units, enough to tell a wrong graph from a right one."""
    rng = np.random.default_rng(0)
    if config.modality == "image":
        return rng.integers(0, 256, (count, *config.input_shape), dtype=np.uint8)
    noise = rng.standard_normal((count, *config.input_shape))
    return (noise * config.normalisation.std + config.normalisation.mean).astype(np.float32)


def _motion_test(data: Path, count: int) -> np.ndarray:
    with np.load(data / "lafan1_h1.npz") as arrays:
        number = arrays["names"].tolist().index("dance2_subject2")
        begin, end = arrays["split_points"][number : number + 2]
        clip = arrays["data"][begin : min(end, begin + 32 * count)]
    return cut_windows(compute_features(clip, fps=FPS), 32)[:count]


def _mnist_test(data: Path, count: int) -> np.ndarray:
    with np.load(data / "mnist.npz") as arrays:
        return np.asarray(arrays["x_test"][:count, ..., None])


def _cifar10_test(data: Path, count: int) -> np.ndarray:
    """Each file is a mosaic of 25 × 40 images, row by row."""
    paths = sorted((data / "cifar10").glob("test_*.webp"))[: -(-count // 1000)]
    if not paths:
        raise FileNotFoundError(f"no test_*.webp in {data / 'cifar10'}")
    mosaics = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    tiles = mosaics.reshape(-1, 25, 32, 40, 32, 3).swapaxes(2, 3).reshape(-1, 32, 32, 3)
    return np.ascontiguousarray(tiles[:count])


def _first_differences(
    model: Autoencoder, inputs: np.ndarray, ours: np.ndarray, others: np.ndarray
) -> tuple[FirstDifference, ...]:
    return tuple(
        _first_difference(model, inputs, ours, others, int(item)) for item in np.flatnonzero((ours != others).any(1))
    )


def _first_difference(
    model: Autoencoder, inputs: np.ndarray, ours: np.ndarray, others: np.ndarray, item: int
) -> FirstDifference:
    position = int((ours[item] != others[item]).argmax())
    with torch.inference_mode():
        gap = choice_gap(model, torch.tensor(inputs[item : item + 1]), torch.tensor(ours[item : item + 1]), position)
    return FirstDifference(item, position, gap)


def choice_gap(model: Autoencoder, inputs: Tensor, codes: Tensor, position: int) -> float:
    """How far the choice of a code was from being another: between the two largest logits, or from a rounding edge."""
    recognition = model.recognition
    context = recognition.context(model.standardise(inputs))
    if isinstance(recognition, LevelQuantiser):
        numbers = context[0, position]
        return float((numbers - numbers.floor() - 0.5).abs().min())
    is_nearest = isinstance(recognition, NearestQuantiser)
    logits = recognition.head(context) if is_nearest else recognition.logits(context, codes)
    largest, second = logits[0, position].topk(2).values.tolist()
    return largest - second


def _log_prob_difference(ours: Encoded, others: Encoded) -> float:
    """Over all codes that both runtimes chose given the same earlier codes."""
    same_so_far = (ours.codes == others.codes).cumprod(1).astype(bool)
    return _largest((ours.log_probs - others.log_probs)[same_so_far])


def _items_equal(ours: np.ndarray, others: np.ndarray) -> float:
    return _share((ours == others).all(1))


def _share(condition: np.ndarray) -> float:
    return float(condition.mean())


def _largest(differences: np.ndarray) -> float:
    return float(np.abs(differences).max(initial=0.0))
