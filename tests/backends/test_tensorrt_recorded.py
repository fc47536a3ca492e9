"""What TensorRT's engines are recorded to do, replayed on the host, where ONNX Runtime reads and writes the addresses.

Engines run on a GPU alone. What is around them, who reads and writes where, is plain work with memory.
"""

import contextlib
import ctypes
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from daps_tokenizer.backends.cuda import Buffer
from daps_tokenizer.backends.onnx import OnnxBackend
from daps_tokenizer.backends.tensorrt_recorded import RecordedDecoder, RecordedEncoder
from daps_tokenizer.hub import ModelFolder, open_model

ITEMS = 4


class HostCuda:
    """Memory of the host, and a stream that runs at once what is put on it, or keeps it while it is recorded."""

    def __init__(self) -> None:
        self.recording: list[Callable[[], None]] | None = None

    def put(self, work: Callable[[], None]) -> None:
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def allocate(self, num_bytes: int, *, zeros: bool = False) -> Any:
        memory = np.full(num_bytes, 0 if zeros else 0x55, np.uint8)
        return HostBuffer(num_bytes, memory.ctypes.data, memory)

    def clear(self, buffer: Buffer) -> None:
        self.put(lambda: ctypes.memset(buffer.address, 0, buffer.num_bytes) and None)

    def upload(self, array: np.ndarray, address: int) -> None:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array: np.ndarray, address: int) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def wait(self) -> None:
        pass

    @contextlib.contextmanager
    def record(self) -> Iterator["HostGraph"]:
        self.recording = []
        graph = HostGraph(self.recording)
        yield graph
        self.recording = None


@dataclasses.dataclass(frozen=True)
class HostBuffer:
    num_bytes: int
    address: int
    memory: np.ndarray


@dataclasses.dataclass(frozen=True)
class HostGraph:
    recorded: list[Callable[[], None]]

    def replay(self) -> None:
        for work in self.recorded:
            work()


class HostExecution:
    """A graph in ONNX Runtime, with the shapes of one batch."""

    def __init__(self, path: Path, shape: tuple[int, ...], cuda: HostCuda) -> None:
        self._session, self._cuda = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]), cuda
        kinds = {"uint8": np.uint8, "float": np.float32, "int32": np.int32, "int64": np.int64}
        # Outputs may have more rows than inputs: the exporter writes "4*batch", or the like.
        names = ("batch", "rows", "columns") if path.stem == "decoder" else ("batch", "height", "width")
        known = dict(zip(names, shape, strict=False))
        self._views = {
            value.name: (
                tuple(eval(n, {}, known) if isinstance(n, str) else n for n in value.shape),
                kinds[value.type.removeprefix("tensor(").removesuffix(")")],
            )
            for value in [*self._session.get_inputs(), *self._session.get_outputs()]
        }
        self.num_bytes = {name: int(np.prod(shape)) * kind().nbytes for name, (shape, kind) in self._views.items()}

    def enqueue(self, addresses: dict[str, int]) -> None:
        assert set(addresses) == set(self._views)  # TensorRT takes no name that it does not know, and needs all others
        self._cuda.put(lambda: self._run(addresses))

    def _run(self, addresses: dict[str, int]) -> None:
        arrays = {name: view(addresses[name], *self._views[name]) for name in addresses}
        feed = {value.name: arrays[value.name].copy() for value in self._session.get_inputs()}
        for value, result in zip(self._session.get_outputs(), self._session.run(None, feed), strict=True):
            arrays[value.name][...] = result


def view(address: int, shape: tuple[int, ...], kind: type) -> np.ndarray:
    count = max(1, int(np.prod(shape)))
    memory = (ctypes.c_char * (count * np.dtype(kind).itemsize)).from_address(address)
    return np.frombuffer(memory, kind, count).reshape(shape)


class HostEngines:
    """A model folder's graphs in place of engines; ``loaded`` are those that were asked for."""

    def __init__(self, folder: ModelFolder) -> None:
        self.config, self.cuda, self.loaded = folder.config, HostCuda(), list[str]()
        self._folder = folder

    def execution(self, graph: str, shape: tuple[int, ...]) -> HostExecution:
        self.loaded.append(graph)
        path = self._folder.path / "onnx" / f"{graph}.onnx"
        return HostExecution(path, shape, self.cuda)


@pytest.fixture(scope="module")
def folder(random_grid_folder: Path) -> ModelFolder:
    """Random weights, and items that are cut into windows."""
    return open_model(random_grid_folder)


def items(folder: ModelFolder, margin: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images, with so many pixels around them, and a uniform number for every code."""
    rng, config = np.random.default_rng(0), folder.config
    height, width, channels = config.input_shape
    images = rng.integers(0, 256, (ITEMS, height + 2 * margin, width + 2 * margin, channels), dtype=np.uint8)
    return images, rng.random((ITEMS, config.num_tokens), dtype=np.float32)


@pytest.mark.parametrize("margin", [0, 4])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_recorded_encoding_draws_the_codes_of_the_graph_on_a_cpu(
    folder: ModelFolder, temperature: float, margin: int
) -> None:
    images, uniform = items(folder, margin)
    expected = OnnxBackend.open(folder).encode(images, uniform, temperature)
    encoder = RecordedEncoder(HostEngines(folder), images.shape)  # type: ignore[arg-type]
    for _ in range(2):  # the second replays over what the first has left behind
        codes, log_probs = encoder.run(images, uniform, temperature)
        np.testing.assert_array_equal(codes, expected.codes)
        np.testing.assert_allclose(log_probs, expected.log_probs, atol=1e-5)
        encoder.run(images[::-1], uniform[::-1], 1.0 - temperature)


def test_steps_draw_what_passes_leave_and_are_recorded_when_that_first_happens(folder: ModelFolder) -> None:
    images, uniform = items(folder)
    expected = OnnxBackend.open(folder).encode(images, uniform, 1.0)
    engines = HostEngines(folder)
    encoder = RecordedEncoder(engines, images.shape, passes=(2, 2, 2))  # type: ignore[arg-type]  # random weights take more
    assert engines.loaded == ["encoder_context", "encoder_pass"]
    codes, log_probs = encoder.run(images, uniform, 1.0)
    assert engines.loaded == ["encoder_context", "encoder_pass", "encoder_step"]
    np.testing.assert_array_equal(codes, expected.codes)
    np.testing.assert_allclose(log_probs, expected.log_probs, atol=1e-5)


@pytest.mark.parametrize("shape", [(ITEMS, 4, 4), (1, 3, 7)])
def test_a_recorded_decoding_gives_what_the_graph_gives(folder: ModelFolder, shape: tuple[int, int, int]) -> None:
    codes = np.random.default_rng(0).integers(0, folder.config.vocab_size, shape, np.int32)
    expected = OnnxBackend.open(folder).decode(codes)
    decoder = RecordedDecoder(HostEngines(folder), shape)  # type: ignore[arg-type]
    for ours, theirs in zip(decoder.run(codes), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
