"""Generators with random weights, for tests that draw codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from daps_tokenizer.config.generator import GeneratorConfig, GeneratorKind, TokenizerReference, TransformerConfig
from daps_tokenizer.hub import ModelFolder
from daps_tokenizer.model.autoencoder import save_weights
from daps_tokenizer.model.generators import build_generator
from daps_tokenizer.motion.generation import motion_conditions

NETWORK = TransformerConfig(hidden_size=32, num_layers=2, num_heads=2)


def random_generator_checkpoint(
    kind: GeneratorKind, tokenizer: ModelFolder, folder: Path, *, is_told: bool = False
) -> Path:
    """A checkpoint as training writes it, for the codes of a tokenizer.

    Labels are ``round`` and ``square``; one that ``is_told`` has none, but a text, a path and codes.
    """
    own = tokenizer.config
    reference = TokenizerReference(own.name, own.weights_sha256)
    labels = ("round", "square")
    config = GeneratorConfig(
        f"random-{kind}", kind, reference, own.num_tokens, own.vocab_size, NETWORK, labels, steps=3, guidance=0.5
    )
    if is_told:
        told = motion_conditions(own.num_tokens)
        config = replace(config, name="random-text", labels=(), conditions=told, book_size=2)
    torch.manual_seed(0)
    model = build_generator(config)
    with torch.no_grad():
        for parameter in model.parameters():  # what begins as zero too, so that no part goes untested
            parameter.add_(0.2 * torch.randn_like(parameter))
        for buffer in model.buffers():  # code books, of a generator of motion
            buffer.normal_()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config.to_json())
    save_weights(model, folder / "model.safetensors")
    experiment = {"codes": {"folder": "/home/someone/codes", "dataset": None}, "batch_size": 16, "model": {}}
    record = {
        "experiment": experiment,
        "steps": 8,
        "seconds": 60.0,
        "stages_before": [],
        "train_items": 64,
        "versions": {"torch": torch.__version__, "device": "CPU, 1 threads"},
    }
    (folder / "training.json").write_text(json.dumps(record))
    return folder
