"""TensorRT engines of a model's graphs: built for this machine's GPU, kept in the user's cache, never shipped.

The same code runs with ``tensorrt`` (10.13 and newer) and with ``tensorrt_rtx``. The first compiles for the GPU that it
finds. The second writes engines that any RTX GPU finishes compiling when it loads them, so it builds without one.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from daps_tokenizer.backends.gpus import find_gpu
from daps_tokenizer.backends.precision import PRECISIONS
from daps_tokenizer.backends.tiled import LONGEST_SIDE
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import BackendError
from daps_tokenizer.hub import ModelFolder
from daps_tokenizer.install import install_command

GRAPHS = ("encoder_context", "encoder_pass", "encoder_step", "decoder")
_OF_ROWS = ("encoder_pass", "encoder_step")  # their batch is of windows
MAX_BATCH = 256
_PACKAGES = ("tensorrt", "tensorrt_rtx")
_OLDEST_TENSORRT = (10, 13)
_RECIPE = 1  # raised with every change of what is built from the same file: precision.py, tensorrt_build.py


@dataclass(frozen=True)
class Profile:
    """Sizes of the axes that an engine leaves open: the smallest and the largest it takes, and those it is tuned for.

    Every engine leaves the batch open, as its first axis; a decoder of grids also rows and columns, and the context of
    a model that sees surroundings height and width.
    """

    fewest: tuple[int, ...]
    best: tuple[int, ...]
    most: tuple[int, ...]

    def takes(self, sizes: tuple[int, ...]) -> bool:
        """Whether an engine runs in these sizes by this profile."""
        ranges = zip(self.fewest, sizes, self.most, strict=True)
        return all(fewest <= size <= most for fewest, size, most in ranges)

    @classmethod
    def from_json(cls, sizes: dict[str, list[int]]) -> Profile:
        """The inverse of ``asdict`` and JSON."""
        return cls(**{name: tuple(size) for name, size in sizes.items()})


# One image is its own profile: kernels that are best for it are not best for a batch.
PROFILES = (Profile((1,), (1,), (1,)), Profile((1,), (32,), (MAX_BATCH,)))
# Of a decoder that takes grids of any size, after those of its own size.
_GRIDS = Profile((1, 1, 1), (1, 64, 64), (1, LONGEST_SIDE, LONGEST_SIDE))


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine; -1 in the shape is an axis left open, of ``profiles`` sizes if an input."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_input: bool
    profiles: tuple[Profile, ...]


@dataclass(frozen=True)
class Engine:
    """A built engine: where it is kept, what goes in and out, and whether it was in the cache already."""

    graph: str
    path: Path
    tensors: tuple[Tensor, ...]
    was_cached: bool


def load_tensorrt() -> Any:
    """The module ``tensorrt``, or ``tensorrt_rtx`` where that is what is installed.

    Raises:
        BackendError: neither is installed, or not one that works.
    """
    reasons = []
    for package in _PACKAGES:
        try:
            module = importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name != package:
                reasons.append(f"{package} lacks the module {error.name}")
            continue
        except (ImportError, OSError) as error:
            reasons.append(f"{package} cannot be loaded: {error}")
            continue
        version = tuple(int(part) for part in module.__version__.split(".")[:2])
        if package == "tensorrt" and version < _OLDEST_TENSORRT:
            reasons.append(f"tensorrt {module.__version__} is older than 10.13")
            continue
        return module
    found = f" ({'; '.join(reasons)})" if reasons else ""
    raise BackendError(
        f"backend 'tensorrt' needs TensorRT, which is not installed{found}; install it with "
        f"{install_command('tensorrt')}, or {install_command('tensorrt-rtx')} for a GeForce or RTX card"
    )


def prepare_engines(
    folder: ModelFolder,
    precision: str,
    *,
    graphs: tuple[str, ...] = GRAPHS,
    profiles: tuple[Profile, ...] = PROFILES,
    cache: Path | None = None,
) -> list[Engine]:
    """Find a model's engines in the cache, and build those that are not there, which takes seconds to minutes.

    Args:
        folder: a model folder with the graphs :data:`GRAPHS`.
        precision: ``float32``, ``float16`` or ``bfloat16``, of products and of keys and values.
        graphs: which of its graphs.
        profiles: items in a batch that the engines take.
        cache: where engines are kept; the user's cache folder if None.

    Raises:
        BackendError: TensorRT is not installed or refuses a graph, or needs a GPU to build and there is none.
        ModelFileError: a graph is missing or damaged.
    """
    if precision not in PRECISIONS:
        raise BackendError(f"backend 'tensorrt' has no dtype {precision!r}; accepted are {', '.join(PRECISIONS)}")
    trt = load_tensorrt()
    keep = cache or cache_folder()
    engines = []
    for graph in graphs:
        source = folder.file(f"onnx/{graph}.onnx")
        folder.file("onnx/weights.bin")  # next to the graphs, which refer to it
        sizes = sizes_of(folder.config, graph, profiles)
        path = keep / f"{folder.config.name}-{graph}-{_key(trt, folder, graph, precision, sizes)}.engine"
        described = path.with_suffix(".json")
        if path.is_file() and described.is_file():
            engines.append(Engine(graph, path, _read_tensors(described), was_cached=True))
            continue
        keep.mkdir(parents=True, exist_ok=True)
        _build_apart(source, precision, sizes, path)
        engines.append(Engine(graph, path, _read_tensors(described), was_cached=False))
    return engines


def with_sizes(shape: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """A shape in which the axes that are left open, the first ones, have these sizes."""
    return tuple(sizes[axis] if size == -1 else size for axis, size in enumerate(shape))


def cache_folder() -> Path:
    """Where engines are kept: ``$DAPS_CACHE``, else ``daps-tokenizer`` in the user's cache folder."""
    if chosen := os.environ.get("DAPS_CACHE"):
        return Path(chosen) / "tensorrt"
    default = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else os.environ.get("XDG_CACHE_HOME")
    return Path(default or Path.home() / ".cache") / "daps-tokenizer" / "tensorrt"


def _key(trt: Any, folder: ModelFolder, graph: str, precision: str, profiles: tuple[Profile, ...]) -> str:
    """A name for everything that an engine depends on; graphs of equal shape share a sha256, so weights count too."""
    target, gpu_name = "any", ""
    if trt.__name__ == "tensorrt":
        gpu = find_gpu()
        if gpu is None:
            raise BackendError(
                "TensorRT builds engines for the GPU of the machine, and this one has no NVIDIA GPU; "
                "tensorrt-rtx builds without one"
            )
        target, gpu_name = gpu.architecture, gpu.name
    files = folder.config.files
    parts = [
        files[f"onnx/{graph}.onnx"],
        files["onnx/weights.bin"],
        trt.__name__,
        trt.__version__,
        target,
        gpu_name,  # those of one architecture differ in what is fastest, and an engine is promised to run on its own
        precision,
        _RECIPE,
        [asdict(profile) for profile in profiles],
    ]
    return f"{precision}-{target}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"


def sizes_of(config: TokenizerConfig, graph: str, profiles: tuple[Profile, ...] = PROFILES) -> tuple[Profile, ...]:
    """What profiles of items are for a graph: of rows, of which there is one for every window, or of images or grids.

    An engine has them in this order.
    """
    if graph in _OF_ROWS:
        return _of_items(profiles, (), per_item=config.windows_per_item)
    if graph == "decoder" and config.token_grid is not None:
        return (*_of_items(profiles, config.token_grid), _GRIDS)
    if graph == "encoder_context" and (around := config.recognition.surroundings):
        shape = config.input_shape[:2]
        return (*_of_items(profiles, shape), *_of_items(profiles, tuple(size + 2 * around for size in shape)))
    return profiles


def profile_for(config: TokenizerConfig, graph: str, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """The first profile of a graph's engine that takes an input of this shape, and the sizes of its open axes.

    Raises:
        BackendError: no profile takes it.
    """
    profiles = sizes_of(config, graph)
    sizes = shape[: len(profiles[0].most)]  # of the axes that are open, which are the first ones
    for index, profile in enumerate(profiles):
        if profile.takes(sizes):
            return index, sizes
    raise BackendError(f"no profile of the engine of {graph} takes an input of shape {shape}")


def _of_items(profiles: tuple[Profile, ...], others: tuple[int, ...], per_item: int = 1) -> tuple[Profile, ...]:
    """The profiles with other axes after the batch."""
    return tuple(
        Profile(*((items[0] * per_item, *others) for items in (profile.fewest, profile.best, profile.most)))
        for profile in profiles
    )


def _read_tensors(path: Path) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            entry["name"],
            entry["dtype"],
            tuple(entry["shape"]),
            entry["is_input"],
            tuple(map(Profile.from_json, entry["profiles"])),
        )
        for entry in json.loads(path.read_text())
    )


def _build_apart(source: Path, precision: str, profiles: tuple[Profile, ...], path: Path) -> None:
    """Build in a process of its own: TensorRT can crash, and leaves memory allocated on the GPU."""
    sizes = json.dumps([asdict(profile) for profile in profiles])
    command = [sys.executable, "-m", "daps_tokenizer.backends.tensorrt_build", str(source), precision, str(path), sizes]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode < 0:
        raise BackendError(
            f"TensorRT crashed (signal {-finished.returncode}) while building an engine of {source}; "
            "use backend='torch' or backend='onnx', or another version of it"
        )
    if finished.returncode != 0:
        raise BackendError((finished.stderr.strip().splitlines() or ["TensorRT failed without a reason"])[-1])
