"""A small convolutional classifier of real images: it says what generated ones show, and its features compare sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

_AT_ONCE = 250
_BATCH = 128


class Classifier(nn.Module):
    """Five convolutions with two halvings of the image between them, and the mean over all places: 128 features."""

    def __init__(self, channels: int, num_classes: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size, convolutions in ((width, 1), (2 * width, 2), (4 * width, 2)):
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, size, 3, padding=1, bias=False), nn.BatchNorm2d(size), nn.ReLU()]
                channels = size
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 (B, H, W, C) -> features (B, 128) and logits (B, classes)."""
        x = (images.permute(0, 3, 1, 2).float() / 255 - 0.5).contiguous(memory_format=torch.channels_last)
        features = self.features(x).mean(dim=(2, 3))
        return features, self.head(features)


def train_classifier(images: np.ndarray, labels: np.ndarray, *, epochs: int, seed: int, mirror: bool) -> Classifier:
    """Train on images (n, H, W, C) uint8 and labels (n,): AdamW, one learning rate that rises and falls.

    Images are shifted by up to two pixels, and where ``mirror`` is set half of them have left and right exchanged.
    """
    torch.manual_seed(seed)
    model = Classifier(images.shape[-1], int(labels.max()) + 1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = epochs * (len(images) // _BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, steps)
    rng, targets = np.random.default_rng(seed), torch.from_numpy(labels.astype(np.int64))
    for step in range(steps):
        if step % (len(images) // _BATCH) == 0:
            order = rng.permutation(len(images))
        rows = order[(step * _BATCH) % (len(images) // _BATCH * _BATCH) :][:_BATCH]
        batch = torch.from_numpy(_augment(images[rows], rng, mirror=mirror))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch)[1]
        loss = F.cross_entropy(logits.float(), targets[rows], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def load_or_train(
    path: Path, images: np.ndarray, labels: np.ndarray, *, epochs: int, seed: int, mirror: bool
) -> Classifier:
    """The classifier of an earlier call where ``path`` is there; else it is trained and written there."""
    if path.is_file():
        model = Classifier(images.shape[-1], int(labels.max()) + 1)
        model.load_state_dict(load_file(path))
        return model.eval()
    model = train_classifier(images, labels, epochs=epochs, seed=seed, mirror=mirror)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return model


@torch.no_grad()
def judge(model: Classifier, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 128) float64 and the most probable class (n,) of images (n, H, W, C) uint8."""
    parts = [model(torch.from_numpy(images[i : i + _AT_ONCE])) for i in range(0, len(images), _AT_ONCE)]
    features, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return features.double().numpy(), logits.argmax(1).numpy()


def _augment(images: np.ndarray, rng: np.random.Generator, *, mirror: bool) -> np.ndarray:
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    height, width = images.shape[1:3]
    top, left = rng.integers(0, 5, (2, len(images)))
    rows, columns = top[:, None] + np.arange(height), left[:, None] + np.arange(width)
    if mirror:
        chosen = rng.random(len(images)) < 0.5
        columns[chosen] = columns[chosen, ::-1]
    shifted: np.ndarray = padded[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return shifted
