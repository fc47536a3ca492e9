"""Generators train on codes by the loop that trains tokenizers: they learn, and an interrupted run resumes exactly."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from daps_tokenizer.config import config_from_dict
from daps_tokenizer.config.generator import GeneratorConfig, TokenizerReference, TransformerConfig
from daps_tokenizer.errors import CodesFileError, ConfigError
from tests.paths import ROOT
from train.__main__ import main
from train.data import Dataset
from train.experiment import read_changed
from train.generators.base import GeneratorSettings
from train.generators.codes import CodeItems, CodesConfig, open_codes
from train.generators.experiment import GeneratorExperiment
from train.loop import fit
from train.methods.base import Batch
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


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.25, 2_300, 2_700), (1.0, 10_000, 10_000)])
def test_class_dropout_hides_that_share_of_the_labels(
    share: float, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tiny_experiment("causal", settings=GeneratorSettings(class_dropout=share))
    method = experiment.build_method(experiment.build_model())
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(method, "nats", lambda codes, labels, *_: seen.append(labels) or torch.zeros(codes.shape))
    batch = Batch(torch.zeros(10_000, NUM_TOKENS, dtype=torch.long), torch.ones(10_000, dtype=torch.long))
    method(batch, torch.Generator().manual_seed(0), 0.0)
    assert set(seen[0].tolist()) <= {1, method.model.config.no_label}
    assert least <= int((seen[0] == method.model.config.no_label).sum()) <= most


def test_a_flow_sees_more_of_the_codes_at_later_times(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = tiny_experiment("flow")
    method = experiment.build_method(experiment.build_model())
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(codes: torch.Tensor, time: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append((codes, time))
        return torch.zeros(*codes.shape, VOCAB_SIZE)

    monkeypatch.setattr(method.model, "forward", forward)
    codes = torch.randint(VOCAB_SIZE, (4_000, NUM_TOKENS), generator=torch.Generator().manual_seed(1))
    method.nats(codes, torch.zeros(4_000, dtype=torch.long), torch.Generator().manual_seed(0))
    ((noisy, time),) = seen
    for least, most in ((0.0, 0.05), (0.45, 0.55), (0.95, 1.0)):
        at_this_time = (least <= time) & (time < most)
        expected = (least + most) / 2 + (1 - (least + most) / 2) / VOCAB_SIZE  # from the data, or equal by chance
        assert float((noisy == codes)[at_this_time].float().mean()) == pytest.approx(expected, abs=0.05)


def test_every_sample_of_an_item_is_trained_on() -> None:
    samples = np.tile(np.arange(3)[None, :, None], (3_000, 1, NUM_TOKENS))  # sample k has the code k everywhere
    items = CodeItems(samples.astype(np.uint8), np.zeros(3_000))
    read = items.read(np.arange(3_000), seed=(0, 1))
    assert (items.read(np.arange(1, 3_000, 2), seed=(0, 1)) == read[1::2]).all()  # whatever process reads it
    assert read.shape == (3_000, NUM_TOKENS) and (read == read[:, :1]).all()
    assert np.bincount(read[:, 0]) / 3_000 == pytest.approx([1 / 3] * 3, abs=0.05)
    assert set(items.read_first([0]).flat) == {0}


def test_a_run_starts_from_the_weights_of_another(tmp_path: Path) -> None:
    quiet = {"show_progress": False, "draw_pictures": False}
    fit(tiny_experiment("causal"), toy_codes(), tmp_path / "first", **quiet)
    start = tmp_path / "first" / "checkpoint"
    gentle = OptimiserConfig(learning_rate=1e-9, weight_decay=0.0)
    second = tiny_experiment("causal", steps=1, seed=1, start_from=str(start), optimiser=gentle)
    record = fit(second, toy_codes(), tmp_path / "second", **quiet)
    assert [stage["steps"] for stage in record["stages_before"]] == [8]
    before, after = (load_file(tmp_path / run / "checkpoint" / "model.safetensors") for run in ("first", "second"))
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)


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
    for default, message in (
        ({"guidance": "high"}, "guidance must be a finite number of at least 0 and at most 1000, not 'high'"),
        ({"guidance": float("inf")}, "guidance must be a finite number of at least 0 and at most 1000, not inf"),
        ({"temperature": -1}, "temperature must be a finite number of at least 0, not -1"),
        ({"steps": 1_000_000}, "steps must be from 1 to 10000, not 1000000"),
    ):
        with pytest.raises(ConfigError, match=message):
            tiny_experiment("flow", defaults=default)
    with pytest.raises(ConfigError, match="defaults: steps are of a flow"):
        tiny_experiment("causal", defaults={"steps": 7})
    with pytest.raises(ConfigError, match="codes: dataset is one of mnist, cifar10, described, kinds, not 'motion'"):
        CodesConfig("codes", tokenizer="daps-h1-motion", dataset="motion")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="hidden_size 15 is not a multiple"):
        TransformerConfig(hidden_size=15)
    with pytest.raises(ConfigError, match="a tokenizer and a dataset go together"):
        CodesConfig("codes", dataset="mnist")


def test_codes_are_made_of_a_named_dataset_and_a_run_resumes_on_them(
    random_mnist_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 28, 28), np.uint8), rng.integers(0, 10, 40, np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    config = tmp_path / "digits.yaml"
    config.write_text(
        f"name: digits\nkind: causal\nsteps: 3\nbatch_size: 8\nvalidation_items: 10\n"
        f"codes: {{folder: {tmp_path}/codes, tokenizer: {random_mnist_folder}, dataset: mnist, samples: 2, flip: true}}"
        "\n"
        "network: {hidden_size: 16, num_layers: 1, num_heads: 2}\n"
    )

    def train(*options: str) -> dict[str, object]:
        result = CliRunner().invoke(
            main,
            ["generator", str(config), "--data", str(tmp_path), "--run", str(tmp_path / "run"), "--quiet", *options],
        )
        assert result.exit_code == 0, result.output
        return dict(json.loads(result.stdout.splitlines()[-1]))

    assert train("--max-seconds", "0")["steps"] == 1
    assert train()["steps"] == 3
    model = GeneratorConfig.from_file(tmp_path / "run" / "checkpoint" / "config.json")
    assert model.labels == tuple("0123456789") and model.tokenizer.name == "random-mnist"
    record = json.loads((tmp_path / "run" / "checkpoint" / "training.json").read_text())
    assert record["train_items"] == 60  # 30 images and their mirror images; 10 images are held out with theirs


def test_the_examples_in_the_package_can_be_read() -> None:
    configs = sorted((ROOT / "train" / "configs" / "generators").glob("*.yaml"))
    assert len(configs) >= 4
    for path in configs:
        content, source = read_changed(path, ())
        assert config_from_dict(GeneratorExperiment, content, source=source).name.startswith("daps-")


def test_a_folder_that_is_no_code_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CodesFileError, match="holds no codes"):
        open_codes(CodesConfig(str(tmp_path)), tmp_path)
