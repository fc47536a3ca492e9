"""LPIPS and FID: distances in the features of trained networks, by ``torchmetrics`` (the ``eval`` extra).

Their weights are never shipped. FID takes a file of Inception weights or lets torch-fidelity download it; LPIPS takes
torchvision's AlexNet, from PyTorch's cache or downloaded into it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from daps_tokenizer.errors import BackendError, reason_of
from daps_tokenizer.install import install_command


class Perceptual:
    """LPIPS of each image and FID of each way to encode; its ``observe`` is what ``evaluation.evaluate`` takes.

    Args:
        lpips: whether to measure LPIPS (AlexNet).
        fid: whether to measure FID (Inception, 2048 features).
        fid_weights: the file pt_inception-2015-12-05-6726825d.pth; downloaded if None.

    Raises:
        BackendError: torchmetrics or what it needs is not installed, or weights can be neither read nor downloaded.
    """

    def __init__(self, *, lpips: bool, fid: bool, fid_weights: Path | None = None) -> None:
        self._fid_weights = fid_weights
        self._lpips = _load("LPIPS", _load_lpips) if lpips else None
        self._with_fid = fid
        self._fids: dict[str, Any] = {}
        if fid:  # now, not after an hour of encoding
            self._fids["greedy"] = self._new_fid()

    def observe(self, way: str, original: np.ndarray, reconstruction: np.ndarray) -> dict[str, np.ndarray]:
        """Look at a batch, (B, height, width, C) uint8 each; returns ``lpips`` (B,) where it is measured."""
        import torch

        images, copies = (_as_rgb(batch) for batch in (original, reconstruction))
        if self._with_fid:
            fid = self._fids.get(way) or self._fids.setdefault(way, self._new_fid())
            fid.update(images, real=True)
            fid.update(copies, real=False)
        if self._lpips is None:
            return {}
        with torch.inference_mode():
            pairs = zip(images, copies, strict=True)
            values = [float(self._lpips(a[None] / 255, b[None] / 255)) for a, b in pairs]
        return {"lpips": np.array(values)}

    def fid(self, way: str) -> float | None:
        """FID between the originals and the reconstructions of a way, None where it is not measured."""
        return float(self._fids[way].compute()) if way in self._fids else None

    def _new_fid(self) -> Any:
        return _load("FID", lambda: _load_fid(self._fid_weights))


def open_perceptual(*, lpips: bool, fid: bool, fid_weights: Path | None) -> Perceptual | None:
    """What the options of a command ask for: weights ask for FID too; None of nothing."""
    fid = fid or fid_weights is not None
    return Perceptual(lpips=lpips, fid=fid, fid_weights=fid_weights) if lpips or fid else None


def _as_rgb(images: np.ndarray) -> Any:
    """(B, height, width, 1 or 3) uint8 as a tensor (B, 3, height, width)."""
    import torch

    channels_first = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return channels_first.expand(-1, 3, -1, -1)


def _load(what: str, load: Any) -> Any:
    try:
        return load()
    except ImportError as error:  # also torchmetrics' own ModuleNotFoundError for what it needs
        raise BackendError(
            f"{what} needs torchmetrics and what it builds on ({_one_line(error)}); install them with "
            f"{install_command('eval')}"
        ) from error
    except Exception as error:  # downloads, torch.load and a torchvision of another torch fail with many types
        raise BackendError(
            f"{what} cannot be loaded ({_one_line(error)}); its weights are looked for in PyTorch's cache, in the file "
            "given with --fid-weights, and on the network"
        ) from error


def _one_line(error: Exception) -> str:
    text = reason_of(error)
    return text if len(text) <= 150 else text[:147] + "..."


def _load_lpips() -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity("alex", normalize=True).eval()


def _load_fid(weights: Path | None) -> Any:
    from torchmetrics.image.fid import FrechetInceptionDistance

    path = None if weights is None else str(weights)
    return FrechetInceptionDistance(2048, feature_extractor_weights_path=path)
