"""Building one TensorRT engine, as :mod:`daps_tokenizer.backends.tensorrt_engines` has it done in another process."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from daps_tokenizer.backends.precision import load_graph
from daps_tokenizer.backends.tensorrt_engines import Profile, Tensor, load_tensorrt, with_sizes
from daps_tokenizer.errors import BackendError, DapsError
from daps_tokenizer.files import write_bytes_atomically


def build(
    trt: Any, source: Path, precision: str, profiles: list[Profile], keep: Path
) -> tuple[bytes, tuple[Tensor, ...]]:
    """A serialised engine of a graph, and what goes in and out of it.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``.
        source: the graph.
        precision: what is written into it first.
        profiles: sizes of the axes that it leaves open.
        keep: the folder of the timing cache.

    Raises:
        BackendError: TensorRT cannot read the graph, or cannot build it here.
    """
    log = make_logger(trt)
    builder = trt.Builder(log)
    # Strongly typed is the only kind of network in newer versions, which then have no flag for it.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(load_graph(source, precision).SerializeToString()):
        raise BackendError(f"TensorRT cannot read {source}: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # 10 bits of mantissa change codes; those who want that ask for float16
    config.max_aux_streams = 0  # everything on the one stream that is recorded
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    for profile in profiles:
        ranges = builder.create_optimization_profile()
        for tensor in inputs:
            shape = tuple(tensor.shape)
            if -1 in shape:
                sizes = (profile.fewest, profile.best, profile.most)
                ranges.set_shape(tensor.name, *(with_sizes(shape, size) for size in sizes))
        config.add_optimization_profile(ranges)
    with _timing_cache(trt, config, keep):
        engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BackendError(f"TensorRT cannot build an engine of {source.name}: {log.last_error}")
    tensors = tuple(
        Tensor(
            tensor.name,
            tensor.dtype.name,
            tuple(tensor.shape),
            index < len(inputs),
            tuple(profiles) if index < len(inputs) and -1 in tuple(tensor.shape) else (),
        )
        for index, tensor in enumerate([*inputs, *outputs])
    )
    return bytes(engine), tensors


@contextlib.contextmanager
def _timing_cache(trt: Any, config: Any, keep: Path) -> Iterator[None]:
    """Remember how fast each kernel was, so that a similar graph builds sooner; tensorrt_rtx times none."""
    if trt.__name__ != "tensorrt":
        yield
        return
    path = keep / f"timing-{trt.__version__}.cache"  # what it holds of other GPUs, TensorRT ignores
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=True)
    yield
    keep.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, bytes(config.get_timing_cache().serialize()))


def make_logger(trt: Any) -> Any:
    """A logger that prints nothing and keeps the last error, for the message of an exception."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.last_error = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last_error = " ".join(message.split())

    return Logger()


def main(source: str, precision: str, out: str, profiles: str) -> None:
    """Write the engine to ``out``, and its tensors next to it as JSON."""
    path = Path(out)
    sizes = [Profile.from_json(entry) for entry in json.loads(profiles)]
    engine, tensors = build(load_tensorrt(), Path(source), precision, sizes, path.parent)
    described = json.dumps([asdict(tensor) for tensor in tensors])
    write_bytes_atomically(path.with_suffix(".json"), described.encode())
    write_bytes_atomically(path, engine)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except DapsError as error:
        sys.exit(" ".join(str(error).splitlines()))
