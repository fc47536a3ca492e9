"""Do a GPU's codes agree with the CPU's, and what does each way of drawing cost?

The reference is ONNX Runtime on the CPU in float32. Every way of drawing in PyTorch is timed by itself, with CUDA's own
events, the eager loop among them: the same model, weights, context and uniform numbers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.gpu.record import NO_TIME, Deadline, Record, reason_of
from daps_tokenizer.backends import open_backend
from daps_tokenizer.backends.torch import TorchBackend
from daps_tokenizer.backends.torch_cuda import LOOP_KINDS, LoopKind, draw_with, fused_choice
from daps_tokenizer.errors import DapsError
from daps_tokenizer.evaluation.timing import synthetic_inputs
from daps_tokenizer.hub import ModelFolder, built_in_models, open_model
from daps_tokenizer.inputs import InputOptions
from daps_tokenizer.modalities import open_modality
from daps_tokenizer.model.passes import ChooseFromHidden, PassesDraw
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import Draw, sample_codes

_RUNTIMES = [
    ("torch", "cuda", "float32"),
    ("torch", "cuda", "float16"),
    ("torch", "cuda", "bfloat16"),
    ("tensorrt", "cuda", "float32"),
    ("tensorrt", "cuda", "float16"),
    ("tensorrt", "cuda", "bfloat16"),
    ("onnx", "cuda", "float32"),
    ("onnx", "CUDAExecutionProvider", "float32"),
    ("onnx", "tensorrt-rtx", "float32"),
    ("onnx", "webgpu", "float32"),
]
_ON_CPU = [("torch", "cpu", "float32"), ("onnx", "cpu", "float32")]
_WARM_UPS, _REPEATS = 2, 7
# Those first that a session must not end without.
_MODELS = ("daps-photo-256", "daps-cifar10", "daps-g1-motion", "daps-h1-motion", "daps-mnist")


@click.command()
@click.option("--model", "models", multiple=True, default=_MODELS, show_default=True)
@click.option("--batch", "batches", multiple=True, type=int, default=(1, 8, 64), show_default=True)
@click.option("--items", default=16, show_default=True, help="Items whose codes are compared.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--parity/--no-parity", default=True, show_default=True, help="Compare codes.")
@click.option("--drawing/--no-drawing", default=True, show_default=True, help="Time ways of drawing.")
@click.option("--until", type=float, help="Take nothing new on after this many seconds.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file to write.")
def main(
    models: tuple[str, ...],
    batches: tuple[int, ...],
    items: int,
    device: str,
    parity: bool,
    drawing: bool,
    until: float | None,
    out: Path,
) -> None:
    """Compare codes and time ways of drawing; a row that cannot be measured says why."""
    record, deadline = Record(out), Deadline(until)
    for name in models:
        if name not in built_in_models():  # as in the checkout of lean.sh
            record.add({"model": name, "reason": "it is not in this checkout"})
    models = tuple(name for name in models if name in built_in_models())
    if parity:
        for name in models:
            for row in _parity(open_model(name), items, _RUNTIMES if device == "cuda" else _ON_CPU, deadline):
                record.add(row)
    for name in models if drawing else ():
        for batch in batches:
            for dtype in ("float32", "bfloat16") if device == "cuda" else ("float32",):
                if deadline.passed:
                    record.add({"model": name, "batch": batch, "dtype": dtype, "reason": NO_TIME})
                    continue
                for row in _drawing(open_model(name), batch, dtype, device):
                    record.add(row)


def _inputs(batch: int, folder: ModelFolder) -> np.ndarray:
    """As a backend takes them: (batch, *input_shape)."""
    return open_modality(folder.config).prepare(synthetic_inputs(batch, folder.config), InputOptions()).pieces


def _parity(
    folder: ModelFolder, items: int, runtimes: Sequence[tuple[str, str, str]], deadline: Deadline
) -> Iterator[dict[str, Any]]:
    inputs = _inputs(items, folder)
    uniform = np.random.default_rng(0).random((items, folder.config.num_tokens), dtype=np.float32)
    reference = open_backend(folder, backend="onnx", device="cpu", dtype="float32")
    expected = {temperature: reference.encode(inputs, uniform, temperature) for temperature in (0.0, 1.0)}
    pixels = reference.decode(expected[0.0].codes).reconstruction.astype(int)
    for backend, device, dtype in runtimes:
        row: dict[str, Any] = {"model": folder.config.name, "backend": backend, "device": device, "dtype": dtype}
        if deadline.passed:
            yield row | {"reason": NO_TIME}
            continue
        try:
            opened = open_backend(folder, backend=backend, device=device, dtype=dtype)
            for temperature, words in ((0.0, "greedy"), (1.0, "sampled")):
                encoded = opened.encode(inputs, uniform, temperature)
                equal = encoded.codes == expected[temperature].codes
                alike = equal.cumprod(1).astype(bool)  # of codes that were drawn given the same codes before them
                differences = np.abs(encoded.log_probs - expected[temperature].log_probs)[alike]
                row[f"{words}_codes_equal"] = float(equal.mean())
                row[f"{words}_log_prob_difference"] = float(differences.max(initial=0.0))
            decoded = opened.decode(expected[0.0].codes).reconstruction.astype(int)
            row["levels_apart"] = int(np.abs(decoded - pixels).max())
            row["info"] = opened.info
        except Exception as error:  # of any runtime; the others are compared all the same
            row["reason"] = reason_of(error)
        yield row


def _drawing(folder: ModelFolder, batch: int, dtype: str, device: str) -> Iterator[dict[str, Any]]:
    """Milliseconds of drawing greedy codes from a context that is there, by each way of doing it."""
    common = {"model": folder.config.name, "batch": batch, "dtype": dtype}
    try:
        backend = TorchBackend.open(folder, device=device, dtype=dtype)
    except DapsError as error:
        yield common | {"reason": reason_of(error)}
        return
    model = backend.model.recognition
    assert isinstance(model, RecognitionModel)
    inputs = torch.from_numpy(_inputs(batch, folder)).to(device)
    with torch.inference_mode():
        context = model.context(backend.model.standardise(inputs))
        uniform = torch.rand(batch, folder.config.num_tokens, device=device)
        eager = partial(sample_codes, model, context, uniform, 0.0, span=1)
        yield common | {"way": "eager loop"} | _time(eager, device)
        expected = eager().codes
        for way in LOOP_KINDS:
            try:
                for row in _draw(way, model, Draw.allocate(model, context, uniform), expected):
                    yield common | row
            except Exception as error:  # a kernel that does not compile is a finding too
                yield common | {"way": way, "reason": reason_of(error)}


def _draw(way: LoopKind, model: RecognitionModel, draw: Draw, expected: torch.Tensor) -> list[dict[str, Any]]:
    rest = draw_with(way, model, draw)
    rest.temperature.zero_()
    device = draw.uniform.device.type
    rows: list[dict[str, Any]] = []
    choices: list[ChooseFromHidden | None] = [None]
    if way == "fused kernel" and (fused := fused_choice(model, draw.context[0].keys.dtype, draw.uniform)) is not None:
        choices.append(fused)
    for choose in choices:
        passes = PassesDraw(model, rest, choose=choose)
        if device == "cuda":
            passes.capture()
        run = partial(passes.run, greedy=True)
        run()
        left = float((passes.unsettled != 0).float().mean())
        found = {"codes_equal": _equal(model, passes.draw, expected), "rows_left": left} | _time(run, device)
        rows.append({"way": f"passes, then {way}", "choice": "from logits" if choose is None else "fused"} | found)
    passes.unsettled.fill_(1)
    rest.run()
    return [*rows, {"way": way, "codes_equal": _equal(model, rest.draw, expected)} | _time(rest.run, device)]


def _equal(model: RecognitionModel, draw: Draw, expected: torch.Tensor) -> float:
    return float((model.windows.join(draw.codes, len(expected)) == expected).float().mean())


def _time(call: Callable[[], Any], device: str) -> dict[str, float]:
    for _ in range(_WARM_UPS):
        call()
    milliseconds = [_milliseconds(call) if device == "cpu" else _milliseconds_of_gpu(call) for _ in range(_REPEATS)]
    return {"median_ms": statistics.median(milliseconds), "fastest_ms": min(milliseconds)}


def _milliseconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def _milliseconds_of_gpu(call: Callable[[], Any]) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop))


if __name__ == "__main__":
    main()
