"""Generators train on codes by the loop that trains tokenizers: they learn, and an interrupted run resumes exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from daps_tokenizer.config.generator import GeneratorConfig, TokenizerReference, TransformerConfig
from daps_tokenizer.errors import ConfigError
from train.data import Dataset
from train.generators.codes import CodeItems, CodesConfig
from train.generators.experiment import GeneratorExperiment
from train.loop import fit
from train.optimisation import OptimiserConfig

NUM_TOKENS, VOCAB_SIZE = 4, 6
NETWORK = TransformerConfig(hidden_size=16, num_layers=1, num_heads=2)


def tiny_experiment(kind: str, **changes: object) -> GeneratorExperiment:
    model = GeneratorConfig(
        "tiny", kind, TokenizerReference("toy", ""), NUM_TOKENS, VOCAB_SIZE, NETWORK, labels=("low", "high")
    )
    experiment = GeneratorExperiment(
        "tiny", kind, CodesConfig("unused"), steps=8, batch_size=16, network=NETWORK, model=model, log_every=2,
        optimiser=OptimiserConfig(learning_rate=1e-2, ema=0.9), evaluate_every=4, checkpoint_every=4,
    )  # fmt: skip
    return dataclasses.replace(experiment, **changes)


def toy_codes() -> Dataset:
    """Label 0 has codes 0 to 2, label 1 codes 3 to 5; two samples of each item."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 64)
    codes = rng.integers(0, 3, (64, 2, NUM_TOKENS)) + 3 * labels[:, None, None]
    items = CodeItems(codes.astype(np.uint8), labels)
    return Dataset(items, items, train_labels=labels, test_labels=labels, validation=items)


@pytest.mark.parametrize("kind", ["flow", "causal"])
def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(kind: str, tmp_path: Path) -> None:
    quiet = {"show_progress": False, "draw_pictures": False}
    fit(tiny_experiment(kind), toy_codes(), tmp_path / "whole", **quiet)
    record = fit(tiny_experiment(kind), toy_codes(), tmp_path / "parts", max_seconds=0, **quiet)
    assert record["steps"] == 1
    while record["steps"] < 8:
        record = fit(tiny_experiment(kind), toy_codes(), tmp_path / "parts", max_seconds=0, **quiet)
    for name in ("model", "state"):
        whole, parts = (load_file(tmp_path / run / "checkpoint" / f"{name}.safetensors") for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_causal_generator_learns_the_codes_of_each_label(tmp_path: Path) -> None:
    experiment = tiny_experiment("causal", steps=150, evaluate_every=150, checkpoint_every=150)
    record = fit(experiment, toy_codes(), tmp_path / "run", show_progress=False, draw_pictures=True)
    # 4 codes of 3 values that are equally probable: 4 log2 3 = 6.3 bits, against 4 log2 6 = 10.3 without learning.
    assert record["validation"]["bits_per_item"] < 6.6
    assert (tmp_path / "run" / "dashboard.png").is_file()


def test_settings_that_cannot_be_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="kind must be one of flow, causal, not 'masked'"):
        dataclasses.replace(tiny_experiment("flow"), kind="masked")
    with pytest.raises(ConfigError, match="defaults: 'top_k' is not known"):
        tiny_experiment("flow", defaults={"top_k": 3})
    with pytest.raises(ConfigError, match="hidden_size 15 is not a multiple"):
        TransformerConfig(hidden_size=15)
    with pytest.raises(ConfigError, match="a tokenizer and a dataset go together"):
        CodesConfig("codes", dataset="mnist")
