"""How good a tokenizer is on held-out items: never averaged per batch, sampled and greedy codes side by side."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daps_tokenizer.config import TokenizerConfig, config_from_dict
from daps_tokenizer.errors import ModelFileError
from daps_tokenizer.files import write_bytes_atomically
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights
from train.data import Items, load_dataset
from train.methods.base import TrainedModel
from train.photos import PhotosConfig

EVALUATION_BATCH = 100


@torch.no_grad()
def evaluate(method: TrainedModel, items: Items, *, limit: int | None = None, seed: int = 0) -> dict[str, float]:
    """Means over all items, or over ``limit`` that are spread evenly over them.

    Args:
        method: encodes with the weights it trains.
        items: uint8 images or float32 features; read in chunks.
        limit: how many items at most.
        seed: of the uniforms that sampled codes are drawn with.

    Returns:
        ``sampled_log_p`` and ``greedy_log_p`` (nats), their ``_psnr`` (dB, images; of clipped 8-bit pixels) and
        ``_l2`` (norm of the error per item, standardised units); ``kl`` of q from the prior and ``entropy`` of q (nats,
        both estimated from log q of the samples); ``code_perplexity`` and ``codes_used`` of the sampled codes over all
        positions. Where the latent is continuous there is no ``entropy`` and no codes are used.
    """
    was_training = method.training
    method.eval()
    model = method.model
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, list[Tensor]] = {}
    usage = torch.zeros(model.config.vocab_size)
    count = len(items) if limit is None else min(limit, len(items))
    chosen = np.arange(count) * len(items) // count
    for start in range(0, count, EVALUATION_BATCH):
        chunk = chosen[start : start + EVALUATION_BATCH]
        inputs = torch.from_numpy(items.read(chunk, seed=(seed,)))
        uniform = torch.rand(len(inputs), model.config.num_tokens, generator=generator).to(model.mean.device)
        inputs = inputs.to(model.mean.device)
        x = model.standardise(inputs)
        for kind, temperature in (("sampled", 1.0), ("greedy", 0.0)):
            parameters, kl, codes = method.reconstruct(x, uniform, temperature)
            mean = model.likelihood.moments(parameters).mean
            error = (mean - x).square().flatten(1)
            found = {
                f"{kind}_log_p": model.likelihood.log_prob(parameters, x).flatten(1).sum(1),
                f"{kind}_l2": error.sum(1).sqrt(),
            }
            if model.config.modality == "image":
                target = inputs if model.config.likelihood.kind != "bernoulli" else model.to_input_units(x)
                difference = model.to_input_units(mean).float() - target.float()
                mse = difference.square().flatten(1).mean(1).clamp_min(1e-3)
                found[f"{kind}_psnr"] = 10 * torch.log10(255.0**2 / mse)
            if kind == "sampled":
                found["kl"] = kl
                if codes is not None:
                    found["entropy"] = model.config.num_tokens * math.log(model.config.vocab_size) - kl
                    usage += torch.bincount(codes.flatten(), minlength=usage.shape[0]).cpu()
            for name, value in found.items():
                values.setdefault(name, []).append(value.cpu())
    method.train(was_training)
    share = usage / usage.sum().clamp_min(1.0)
    perplexity = math.exp(-float((share * share.clamp_min(1e-12).log()).sum()))
    means = {name: float(torch.cat(parts).double().mean()) for name, parts in values.items()}
    return means | {"code_perplexity": perplexity, "codes_used": float((usage > 0).sum()), "items": float(count)}


def evaluate_checkpoint(checkpoint: Path, data: Path, *, seed: int = 0) -> dict[str, Any]:
    """Evaluate a checkpoint's autoregressive model on the whole test set and record it in ``training.json``.

    Returns:
        What :func:`evaluate` returns, with dataset, seed and date.

    Raises:
        ModelFileError: the folder is no checkpoint.
    """
    config_file, record_file = checkpoint / "config.json", checkpoint / "training.json"
    if not config_file.is_file() or not record_file.is_file():
        raise ModelFileError(f"{checkpoint}: no config.json and training.json; expected a checkpoint folder")
    record: dict[str, Any] = json.loads(record_file.read_text(encoding="utf-8"))
    model = Autoencoder(TokenizerConfig.from_file(config_file))
    load_weights(model, checkpoint / "model.safetensors")
    experiment = record["experiment"]
    dataset, photos = experiment["dataset"], experiment.get("data")
    test = load_dataset(
        dataset,
        data,
        photos=photos and config_from_dict(PhotosConfig, photos, source=f"{record_file}: data"),
        input_shape=model.config.input_shape,
    ).test
    found: dict[str, Any] = evaluate(TrainedModel(model), test, seed=seed)
    found |= {"dataset": f"{dataset}, test set", "seed": seed, "date": datetime.date.today().isoformat()}
    record["evaluation"] = found
    write_bytes_atomically(record_file, (json.dumps(record, indent=2) + "\n").encode())
    return found
