"""Encoding in ONNX Runtime on buffers that stay where they are: what its CUDA graphs need.

``encoder.onnx`` decides by itself how many passes it makes, which ONNX Runtime cannot capture. Here that is decided
outside, between graphs that only compute: ``encoder_pass.onnx`` chooses all codes anew until they stay as they are, two
to eight times with a trained model (model/sampling.py says why those are the loop's codes), and ``encoder_step.onnx``
draws the rows that have not settled then, one position a call. Both read the context where ``encoder_context.onnx``
has left it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.config.code_windows import Windows, most_passes


class CapturedEncoder:
    """Encoding of batches of one shape."""

    def __init__(
        self,
        session: Callable[[str], Any],
        config: TokenizerConfig,
        shape: tuple[int, ...],
        *,
        device: str,
        number: int = 0,
        max_passes: int | None = None,
    ) -> None:
        """Bind the context to buffers for a batch.

        Args:
            session: gives a graph's session by its name; ``encoder_step`` is asked for when it is first needed.
            config: the model's.
            shape: of a batch, (B, *input_shape), or with the surroundings of images.
            device: where the buffers are, ``cpu`` or ``cuda``.
            number: another for each that uses the same sessions, which keep a captured graph for each number.
            max_passes: after these the steps draw the rest, with 0 everything; by default as many as are quicker.
        """
        self._session, self._size, self._windows = session, shape[0], Windows.of(config)
        rows, num_codes = self._size * self._windows.per_item, self._windows.num_codes
        self._max_passes = most_passes(rows, num_codes) if max_passes is None else max_passes
        self._buffers = _Buffers(rows, num_codes, device, number)
        context = session("encoder_context")
        (given,) = context.get_inputs()
        kind = np.uint8 if config.modality == "image" else np.float32
        self._inputs = self._buffers.make(shape, kind)
        self._run_context = self._buffers.bind(context, {given.name: self._inputs})
        self._passes: _Passes | None = None
        self._steps: _Steps | None = None

    def run(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> list[np.ndarray]:
        """Codes int32 and log-probabilities float32, (size, N), of as many inputs and uniforms (size, N)."""
        rows = np.ascontiguousarray(self._windows.split(uniform, self._size))
        self._inputs.update_inplace(np.ascontiguousarray(inputs))
        self._buffers.temperature.update_inplace(np.array(temperature, np.float32))
        self._run_context()
        codes, log_probs, unsettled = self._draw_in_passes(rows)
        if unsettled.any():
            if self._steps is None:
                self._steps = _Steps(self._session("encoder_step"), self._buffers)
            for drawn, stepped in zip((codes, log_probs), self._steps.run(rows), strict=True):
                drawn[unsettled] = stepped[unsettled]
        return [self._windows.join(values, self._size) for values in (codes, log_probs)]

    def _draw_in_passes(self, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes and log-probabilities (rows, n), and which rows have not settled, (rows,)."""
        if self._max_passes == 0:
            shape = uniform.shape
            return np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.ones(shape[0], bool)
        if self._passes is None:
            self._passes = _Passes(self._session("encoder_pass"), self._buffers)
        return self._passes.run(uniform, self._max_passes)


class _Buffers:
    """Memory on the device that several graphs read and write; what has a name is made once."""

    def __init__(self, rows: int, num_codes: int, device: str, number: int) -> None:
        self.rows, self.num_codes, self._device = rows, num_codes, device
        self.temperature = self.make((), np.float32)
        self._context: dict[str, Any] = {}
        self._options = onnxruntime.RunOptions()
        # ONNX Runtime captures nothing for -1, and 0 is not for its users.
        self._options.add_run_config_entry("gpu_graph_id", str(1 + number))

    def make(self, shape: tuple[int, ...], kind: type) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, kind), self._device, 0)

    def by_row(self, values: list[Any]) -> dict[str, Any]:
        """A buffer for each input or output of a graph whose first axis is the rows."""
        return {value.name: self.make((self.rows, *value.shape[1:]), np.float32) for value in values}

    def bind(self, session: Any, values: dict[str, Any]) -> Callable[[], None]:
        """What runs a graph on ``values``, by the names of its inputs and outputs, and on the context.

        Keys and values that it adds to, ``past_*``, are written where they are read.
        """
        binding = session.io_binding()
        outputs = session.get_outputs()
        self._context |= self.by_row([value for value in outputs if value.name.startswith("context_")])
        known = {"temperature": self.temperature, **self._context, **values}
        for value in session.get_inputs():
            binding.bind_ortvalue_input(value.name, known[value.name])
        for value in outputs:
            binding.bind_ortvalue_output(value.name, known[value.name.replace("present_", "past_")])
        return lambda: session.run_with_iobinding(binding, self._options)


class _Passes:
    """``encoder_pass.onnx``, repeated."""

    def __init__(self, session: Any, buffers: _Buffers) -> None:
        shape = (buffers.rows, buffers.num_codes)
        self._uniform, self._log_probs = buffers.make(shape, np.float32), buffers.make(shape, np.float32)
        self._codes, self._new_codes = buffers.make(shape, np.int32), buffers.make(shape, np.int32)
        results = {"new_codes": self._new_codes, "log_probs": self._log_probs}
        self._run = buffers.bind(session, {"uniform": self._uniform, "codes": self._codes, **results})

    def run(self, uniform: np.ndarray, max_passes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes and log-probabilities (rows, n), and which rows the last pass changed, (rows,)."""
        self._uniform.update_inplace(uniform)
        codes, changed = np.zeros(uniform.shape, np.int32), np.ones(len(uniform), bool)
        for _ in range(max_passes):
            self._codes.update_inplace(codes)
            self._run()
            before, codes = codes, _copy(self._new_codes)
            changed = (codes != before).any(axis=1)
            if not changed.any():
                break
        return codes, _copy(self._log_probs), changed


def _copy(buffer: Any) -> np.ndarray:
    """What a buffer holds; ONNX Runtime gives an array of the very memory where that is the host's."""
    return np.array(buffer.numpy())


class _Steps:
    """``encoder_step.onnx``, one position a call: keys, values and codes are updated where they are."""

    def __init__(self, session: Any, buffers: _Buffers) -> None:
        shape = (buffers.rows,)
        self._position, self._uniform = buffers.make((), np.int64), buffers.make(shape, np.float32)
        self._codes, self._log_probs = buffers.make(shape, np.int32), buffers.make(shape, np.float32)
        values = {"position": self._position, "uniform": self._uniform, "log_probs": self._log_probs}
        # The codes of a step are the input of the next.
        values |= {"previous": self._codes, "codes": self._codes}
        values |= buffers.by_row([value for value in session.get_inputs() if value.name.startswith("past_")])
        self._run = buffers.bind(session, values)

    def run(self, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes and log-probabilities (rows, n)."""
        codes, log_probs = np.empty(uniform.shape, np.int32), np.empty(uniform.shape, np.float32)
        self._codes.update_inplace(np.zeros(len(uniform), np.int32))
        for position, column in enumerate(np.ascontiguousarray(uniform.T)):
            self._position.update_inplace(np.array(position, np.int64))
            self._uniform.update_inplace(column)
            self._run()
            codes[:, position] = self._codes.numpy()
            log_probs[:, position] = self._log_probs.numpy()
        return codes, log_probs
