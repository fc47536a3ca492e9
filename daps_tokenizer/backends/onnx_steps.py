"""Encoding in ONNX Runtime one step a call, on buffers that stay where they are: what its CUDA graphs need.

``encoder.onnx`` holds a loop, which ONNX Runtime cannot capture. Here the loop is outside: ``encoder_step.onnx`` reads
and writes one set of buffers on the device. Keys and values are updated in place, and the codes of a step are the input
of the next, so that only uniforms, positions and finished codes cross to and from the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.windows import Windows


class StepLoop:
    """Encoding of batches of one size."""

    def __init__(self, context: Any, step: Any, config: TokenizerConfig, size: int, *, device: str) -> None:
        """Bind two sessions, of ``encoder_context.onnx`` and ``encoder_step.onnx``, to buffers for ``size`` items.

        Args:
            device: where the buffers are, ``cpu`` or ``cuda``.
        """
        self._context, self._step, self._size, self._windows = context, step, size, Windows.of(config)
        rows = size * self._windows.per_item

        def buffer(shape: tuple[int, ...], dtype: type) -> Any:
            return onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype), device, 0)

        self._inputs = buffer((size, *config.input_shape), np.uint8 if config.modality == "image" else np.float32)
        self._position, self._temperature = buffer((), np.int64), buffer((), np.float32)
        self._uniform, self._log_probs = buffer((rows,), np.float32), buffer((rows,), np.float32)
        self._codes = buffer((rows,), np.int32)
        kept = [value for value in step.get_inputs() if value.name.startswith(("context_", "past_"))]
        memories = {value.name: buffer((rows, *value.shape[1:]), np.float32) for value in kept}

        self._context_binding, self._step_binding = context.io_binding(), step.io_binding()
        self._context_binding.bind_ortvalue_input(context.get_inputs()[0].name, self._inputs)
        inputs = {"position": self._position, "uniform": self._uniform, "temperature": self._temperature}
        for name, value in {"previous": self._codes, **inputs, **memories}.items():
            self._step_binding.bind_ortvalue_input(name, value)
        for name, value in {"codes": self._codes, "log_probs": self._log_probs, **memories}.items():
            if name.startswith("context_"):
                self._context_binding.bind_ortvalue_output(name, value)
            else:
                self._step_binding.bind_ortvalue_output(name.replace("past_", "present_"), value)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(size))  # one captured graph for each size

    def run(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> list[np.ndarray]:
        """Codes int32 and log-probabilities float32, (size, N), of as many inputs and uniforms (size, N)."""
        rows = self._windows.split(uniform, self._size)
        codes, log_probs = np.empty(rows.shape, np.int32), np.empty(rows.shape, np.float32)
        self._inputs.update_inplace(np.ascontiguousarray(inputs))
        self._temperature.update_inplace(np.array(temperature, np.float32))
        self._context.run_with_iobinding(self._context_binding)
        self._codes.update_inplace(np.zeros(len(rows), np.int32))
        for position, column in enumerate(np.ascontiguousarray(rows.T)):
            self._position.update_inplace(np.array(position, np.int64))
            self._uniform.update_inplace(column)
            self._step.run_with_iobinding(self._step_binding, self._options)
            codes[:, position] = self._codes.numpy()
            log_probs[:, position] = self._log_probs.numpy()
        return [self._windows.join(values, self._size) for values in (codes, log_probs)]
