"""What else somebody could install to turn images into codes, on the same images: speed, and what each gives and lacks.

Only what installs from the package index and needs no download of weights. The one-pass encoders of
``vector-quantize-pytorch`` have as many parameters as ours and random weights: they are here for their speed, which
does not depend on weights; what quality such codes have is in the quality reports, of models trained alike.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.inputs import real_inputs
from benchmarks.latency.machine import describe_bench_machine
from benchmarks.latency.measure import time_call
from benchmarks.quality.codecs import CODECS, Codec, Fitted
from benchmarks.reports import RESULTS, command_line, report, show, table, write_report
from daps_tokenizer import Tokenizer
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import InputError
from daps_tokenizer.hub import open_model


@dataclass(frozen=True)
class Peer:
    """A way to encode images (B, height, width, C) uint8."""

    name: str
    gives: str
    lacks: str
    encode: Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class PeerResult:
    """Median milliseconds of one call, by batch size; ``relative`` is to the first peer at the same batch."""

    name: str
    gives: str
    lacks: str
    median_ms: dict[int, float]
    relative: dict[int, float]


def measure_peers(
    model: str, *, threads: int, batches: Sequence[int], seconds: float, data: Path | None
) -> tuple[list[PeerResult], str]:
    """Time every peer in this process, on the same images, with as many threads.

    Args:
        model: built-in name or folder of an image model.
        threads: each may use.
        batches: images a call.
        seconds: time spent on each measurement.
        data: where test sets are.

    Returns:
        The results, ours first, and what the images are.

    Raises:
        InputError: the model is not for images.
    """
    import torch

    folder = open_model(model)
    if folder.config.modality != "image":
        raise InputError(f"{model}: peers encode images, and this is a model of {folder.config.modality}")
    torch.set_num_threads(threads)
    images, source = real_inputs(folder.config, max(batches), data)
    measured: list[tuple[Peer, dict[int, float]]] = []
    for peer in _peers(model, folder.config, threads):
        medians = {batch: 1e3 * time_call(partial(peer.encode, images[:batch]), seconds)[0].median for batch in batches}
        measured.append((peer, medians))
    ours = measured[0][1]
    return [
        PeerResult(
            peer.name, peer.gives, peer.lacks, medians, {batch: medians[batch] / ours[batch] for batch in batches}
        )
        for peer, medians in measured
    ], source


def _peers(model: str, config: TokenizerConfig, threads: int) -> list[Peer]:
    ours = Tokenizer.from_pretrained(model, backend="onnx", device="cpu", num_threads=threads)
    eager = Tokenizer.from_pretrained(model, backend="torch", device="cpu", num_threads=threads)
    num_bytes = round(config.bits_per_item / 8)
    gives = "integer codes; exact log-probabilities; samples; decoder"
    library = f"vector-quantize-pytorch {importlib.metadata.version('vector-quantize-pytorch')}"
    return [
        Peer("daps-tokenizer, ONNX Runtime", gives, "", ours.encode),
        Peer("daps-tokenizer, PyTorch in passes", gives, "needs PyTorch", eager.encode),
        *(
            Peer(
                f"{library}, {kind}, one-pass encoder of equal size",
                "integer codes",
                "needs PyTorch; no probabilities, no samples; encoder, decoder and training are yours",
                _one_pass_encoder(config, kind),
            )
            for kind in ("VectorQuantize", "FSQ")
        ),
        *(
            Peer(
                f"{codec.name} by Pillow, at most {num_bytes} bytes",
                "a file that any program opens",
                "no codes of fixed number and alphabet; no probabilities; some images do not fit",
                partial(_write_all, codec, num_bytes),
            )
            for codec in CODECS
        ),
    ]


def _write_all(codec: Codec, num_bytes: int, images: np.ndarray) -> list[Fitted | None]:
    return [codec.fit(image, num_bytes) for image in images]


def _one_pass_encoder(config: TokenizerConfig, kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """Self-attention blocks on the patches, as many as come nearest to our parameters, then the library's quantiser."""
    import torch
    import vector_quantize_pytorch as library

    from daps_tokenizer.model.autoencoder import Autoencoder
    from daps_tokenizer.model.parallel import ParallelEncoder

    def size(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    def encoder(num_layers: int) -> ParallelEncoder:
        sizes = dataclasses.replace(config.recognition, num_layers=num_layers)
        return ParallelEncoder(dataclasses.replace(config, recognition=sizes))

    model = Autoencoder(config)
    wanted = size(model.recognition) - size(model.recognition.head)  # whose part the quantiser plays
    chosen = min(
        (encoder(layers) for layers in range(1, 13)), key=lambda candidate: abs(size(candidate) - wanted)
    ).eval()
    hidden = config.recognition.hidden_size
    if kind == "VectorQuantize":
        quantiser = library.VectorQuantize(dim=hidden, codebook_size=config.vocab_size).eval()
    else:
        quantiser = library.FSQ(levels=_levels(config.vocab_size), dim=hidden).eval()

    @torch.inference_mode()
    def encode(images: np.ndarray) -> np.ndarray:
        found = quantiser(chosen.hidden(model.standardise(torch.tensor(images))))
        return found[1].numpy()

    return encode


def _levels(vocab_size: int) -> list[int]:
    """Levels whose product is at least the vocabulary: fours."""
    levels = [4]
    while np.prod(levels) < vocab_size:
        levels.append(4)
    return levels


def write_peers(
    folder: Path,
    model: str,
    results: Sequence[PeerResult],
    machine: dict[str, str],
    source: str,
    command: str,
) -> list[Path]:
    name = Path(model).name
    content = {
        "command": command,
        "machine": machine,
        "images": source,
        "results": [asdict(result) for result in results],
    }
    batches = list(results[0].median_ms)
    columns = ["", *(f"ms an image, batch {batch}" for batch in batches), "relative to ours", "gives", "lacks"]
    rows = []
    for result in results:
        times = [f"{result.median_ms[batch] / batch:.2f}" for batch in batches]
        relative = ", ".join(f"{result.relative[batch]:.2f}×" for batch in batches)
        rows.append((result.name, *times, relative, result.gives, result.lacks))
    text = report(
        f"Other ways to encode the images of {name}",
        [command],
        table(columns, rows),
        "Medians of whole calls on numpy arrays, after two to warm up, in one process, on the same images and threads: "
        f"{source}. The one-pass encoders have random weights and as many parameters as our recognition model.",
        machine=machine,
    )
    return write_report(folder, f"peers_{name}", content, text)


@click.command()
@click.option("--model", default="daps-photo-256", show_default=True, help="The model that others are compared with.")
@click.option("--num-threads", "threads", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--batch", "batches", multiple=True, type=click.IntRange(min=1), default=(1, 8), show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Time spent on each measurement.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of test sets; else $DAPS_DATA, ../shared/data.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="benchmarks/results")
def peers(model: str, threads: int, batches: tuple[int, ...], seconds: float, data: Path | None, out: Path) -> None:
    """Time the same images through what else could be installed, and say what each gives and lacks."""
    results, source = measure_peers(model, threads=threads, batches=batches, seconds=seconds, data=data)
    show(write_peers(out, model, results, describe_bench_machine(), source, command_line()))
