"""What the work must at least cost: bytes that have to be read and multiplications that have to be done, counted."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.hub import ModelFolder

_FLOAT = 4  # bytes
_PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


@dataclass(frozen=True)
class Work:
    """``num_bytes`` of weights and caches to read and ``flops`` (two per multiply-add) of one call."""

    num_bytes: float
    flops: float

    def floor_ms(self, peaks: Peaks) -> float:
        """The least time, in milliseconds: reading or computing, whichever takes longer."""
        return 1e3 * max(self.num_bytes / peaks.bytes_per_second, self.flops / peaks.flops_per_second)


@dataclass(frozen=True)
class Peaks:
    """What the machine was measured to do, per second."""

    bytes_per_second: float
    flops_per_second: float


@dataclass(frozen=True)
class ModelCosts:
    """Of one item: bytes of weights and float32 operations of each part of a model folder.

    ``step`` is one position of one window, its attention to earlier positions counted for half of them.
    """

    context: Work
    step: Work
    decoder: Work
    config: TokenizerConfig

    def encode_in_passes(self, passes: np.ndarray) -> Work:
        """Of items that took ``passes`` (B, W) over all positions of their windows.

        Weights are counted once a pass of the slowest, the least that there can be: each span reads them anew.
        """
        window = self.config.codes_per_window
        num_passes = float(passes.sum())
        num_bytes = self.context.num_bytes + float(passes.max()) * self.step.num_bytes
        num_bytes += num_passes * self._cache_bytes(own_positions=window)
        return Work(num_bytes, len(passes) * self.context.flops + num_passes * window * self.step.flops)

    def encode_in_steps(self, batch: int) -> Work:
        """Position after position; weights are read once a step, and each window's caches."""
        window, rows = self.config.codes_per_window, batch * self.config.windows_per_item
        caches = sum(self._cache_bytes(own_positions=position + 1) for position in range(window))
        num_bytes = self.context.num_bytes + window * self.step.num_bytes + rows * caches
        return Work(num_bytes, batch * self.context.flops + rows * window * self.step.flops)

    def decode(self, batch: int) -> Work:
        """All codes of ``batch`` items at once."""
        return Work(self.decoder.num_bytes, batch * self.decoder.flops)

    def _cache_bytes(self, *, own_positions: int) -> float:
        """Keys and values of a window: of its own positions and of the context."""
        sizes = self.config.recognition
        if sizes.kind != "autoregressive":
            return 0.0
        return 2 * _FLOAT * sizes.num_layers * sizes.hidden_size * (own_positions + self.config.codes_per_window)


def count_costs(folder: ModelFolder) -> ModelCosts:
    """Read off the graphs of a model folder; needs the ``export`` extra (onnx).

    Where codes do not depend on each other, all of encoding is the context, and a step costs nothing.
    """
    sizes, config = folder.config.recognition, folder.config
    decoder = _count(folder, "decoder")
    if sizes.kind != "autoregressive":
        return ModelCosts(_count(folder, "encoder"), Work(0.0, 0.0), decoder, config)
    context, step = _count(folder, "encoder_context"), _count(folder, "encoder_step")
    # The graph attends to all positions, the loop only to earlier ones: on average to half of them.
    unneeded = 2 * 2 * sizes.num_layers * sizes.hidden_size * config.codes_per_window / 2
    return ModelCosts(context, Work(step.num_bytes, step.flops - unneeded), decoder, config)


def measure_peaks(seconds: float = 0.3) -> Peaks:
    """What one thread reads from memory and computes, measured with numpy."""
    words = np.ones(2**26, np.float32)  # 256 MB, beyond any cache
    matrix = np.ones((1024, 1024), np.float32)
    reading = _fastest(lambda: float(words.max()), seconds)
    computing = _fastest(lambda: matrix @ matrix, seconds)
    return Peaks(words.nbytes / reading, 2 * 1024**3 / computing)


def _fastest(call: object, seconds: float) -> float:
    assert callable(call)
    best, until = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


def _count(folder: ModelFolder, name: str) -> Work:
    """Weights of a graph in bytes, and operations of its products for a batch of 1 and a grid of the model's size."""
    import onnx
    from onnxscript.optimizer import optimize

    folder.file("onnx/weights.bin")
    model = onnx.load(folder.file(f"onnx/{name}.onnx"))
    sizes = dict(zip(("rows", "columns"), folder.config.token_grid or (), strict=False))
    sizes |= dict(zip(("height", "width"), folder.config.input_shape, strict=False))
    for value in model.graph.output:  # their shapes follow from those of the inputs
        value.type.tensor_type.ClearField("shape")
    for value in model.graph.input:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                size = sizes.get(dimension.dim_param, 1)
                dimension.ClearField("dim_param")
                dimension.dim_value = size
    model = optimize(model)  # with sizes that are known, shapes are no longer computed
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [dimension.dim_value or 1 for dimension in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.input, *graph.output]
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    flops = 0.0
    for node in graph.node:
        if node.op_type not in _PRODUCTS:
            continue
        first, second, result = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
        if node.op_type in ("MatMul", "Gemm"):
            flops += 2 * math.prod(result) * first[-1]
        else:  # a kernel is (out, in, ...) or, transposed, (in, out, ...); every input value meets all of its channel's
            pixels = math.prod(result[2:] if node.op_type == "Conv" else first[2:])
            flops += 2 * first[0] * pixels * math.prod(second)
    tables = {node.input[0] for node in graph.node if node.op_type == "Gather"}  # of which only few rows are read
    weights = [
        math.prod(tensor.dims)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name not in tables
    ]
    return Work(_FLOAT * float(sum(weights)), flops)
