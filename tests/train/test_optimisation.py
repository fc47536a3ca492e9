"""Updates of the weights: rates of single parts, clipping of single units, skipped updates, and averaged weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.settings import TINY_GRID, TINY_MLP, of_kind
from tests.train.test_training import experiment, noise, run, tensors
from train.checkpoint import load_checkpoint
from train.loop import fit
from train.methods import Method, build_method
from train.optimisation import (
    AveragedWeights,
    OptimiserConfig,
    Updates,
    averaged_weights,
    build_optimiser,
    clip_gradients,
)
from train.recorder import read_metrics


def method_of(model: TokenizerConfig = TINY_GRID) -> Method:
    torch.manual_seed(0)
    return build_method("daps", Autoencoder(model), {"num_samples": 4})


def with_gradients(method: Method, size: float) -> Method:
    for parameter in method.model.parameters():
        parameter.grad = torch.full_like(parameter, size)
    return method


# --- learning rates


def rates(settings: OptimiserConfig) -> dict[str, float]:
    """The learning rate of every parameter by its name."""
    method = method_of()
    optimiser = build_optimiser(method, settings)
    names = {parameter: name for name, parameter in method.model.named_parameters()}
    groups = optimiser.param_groups
    return {names[p]: group["lr"] for group in groups for p in group["params"] if p in names}


def test_every_parameter_has_one_learning_rate_and_the_most_specific_part_counts() -> None:
    factors = {"code_embedding": 3.0, "self_attention": 2.0, "recognition": 0.5, "generative": 1.5}
    found = rates(OptimiserConfig(learning_rate=1e-3, learning_rates=factors))
    assert len(found) == len(list(method_of().model.parameters()))
    assert found["recognition.code_embedding.weight"] == pytest.approx(3e-3)
    assert found["recognition.decoder_blocks.0.self_attention.query.weight"] == pytest.approx(2e-3)
    assert found["recognition.decoder_blocks.0.cross_attention.query.weight"] == pytest.approx(5e-4)
    assert found["recognition.encoder_blocks.0.attention.query.weight"] == pytest.approx(5e-4)
    assert found["generative.input.weight"] == pytest.approx(1.5e-3)


def test_a_part_that_the_model_does_not_have_is_named() -> None:
    method = build_method("vqvae", Autoencoder(of_kind(TINY_GRID, "nearest")), {})
    with pytest.raises(ConfigError, match="learning_rates: tiny-grid has no code_embedding that is trained"):
        build_optimiser(method, OptimiserConfig(learning_rates={"code_embedding": 2.0}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": {"decoder": 1.0}}, "part 'decoder' is not known; parts are code_embedding, self_attention"),
        ({"learning_rates": {"head": -1.0}}, "head must be a factor of at least 0, not -1.0"),
        ({"clip": "value"}, "clip must be one of norm, adaptive, not 'value'"),
        ({"clip_ratio": 0.0}, "clip_ratio must be positive, not 0.0"),
        ({"ema": 1.0}, "ema must be a decay between 0 and 1, as 0.999, or null, not 1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimiserConfig(**changes)


# Warm-up takes the first 10 of 100 steps; the cosine ends at a fifth of the learning rate.
@pytest.mark.parametrize(
    ("step", "constant", "cosine"),
    [
        (0, 0.1, 0.1),
        (4, 0.5, 0.5 * 0.9968),
        (9, 1.0, 0.9842),
        (50, 1.0, 0.6),
        (75, 1.0, 0.3172),
        (99, 1.0, 0.2002),
        (100, 1.0, 0.2),
    ],
)
def test_the_learning_rate_warms_up_and_then_stays_or_falls_along_a_cosine(
    step: int, constant: float, cosine: float
) -> None:
    assert OptimiserConfig(warmup_steps=10).factor(step, total_steps=100) == pytest.approx(constant)
    falling = OptimiserConfig(warmup_steps=10, schedule="cosine", final_fraction=0.2)
    assert falling.factor(step, total_steps=100) == pytest.approx(cosine, abs=1e-4)


def test_a_fraction_that_nothing_decays_to_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"final_fraction 0\.2 is what a cosine decays to; schedule is constant"):
        OptimiserConfig(final_fraction=0.2)


def test_without_warm_up_a_run_begins_with_the_whole_learning_rate_and_a_cosine_ends_at_nothing() -> None:
    assert [OptimiserConfig().factor(step, 100) for step in (0, 50, 99)] == [1.0, 1.0, 1.0]
    falling = OptimiserConfig(schedule="cosine")
    assert [falling.factor(step, 100) for step in (0, 50, 100)] == pytest.approx([1.0, 0.5, 0.0])


# --- clipping


def test_the_norm_of_all_gradients_of_a_model_is_limited() -> None:
    method = with_gradients(method_of(), 5.0)
    assert clip_gradients(method, OptimiserConfig(clip_norm=0.5))
    for part in (method.model.recognition, method.model.generative):
        total = torch.cat([p.grad.flatten() for p in part.parameters() if p.grad is not None]).norm()
        assert float(total) == pytest.approx(0.5, rel=1e-3)


def test_adaptive_clipping_limits_each_unit_to_a_share_of_its_weights() -> None:
    method = with_gradients(method_of(), 5.0)
    dense, small = method.model.recognition.head.weight, method.model.generative.upsamplings[-1]
    assert dense.grad is not None and isinstance(small, nn.ConvTranspose2d) and small.weight.grad is not None
    small.weight.grad *= 1e-9
    unchanged = small.weight.grad.clone()
    assert clip_gradients(method, OptimiserConfig(clip="adaptive", clip_ratio=0.02))
    torch.testing.assert_close(dense.grad.norm(dim=1), 0.02 * dense.detach().norm(dim=1))
    torch.testing.assert_close(small.weight.grad, unchanged)
    assert small.bias is not None and small.bias.grad is not None  # starts at zero, and can still move
    assert 0 < float(small.bias.grad.norm()) <= 0.02 * 1e-3 + 1e-9


def test_a_transposed_convolution_is_clipped_by_its_output_channels() -> None:
    method = with_gradients(method_of(), 5.0)
    weight = method.model.generative.upsamplings[-1].weight
    clip_gradients(method, OptimiserConfig(clip="adaptive", clip_ratio=0.02))
    assert weight.grad is not None
    gradients, weights = weight.grad.transpose(0, 1).flatten(1), weight.detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(gradients.norm(dim=1), 0.02 * weights.norm(dim=1))


@pytest.mark.parametrize("clip", ["norm", "adaptive"])
def test_an_update_that_is_not_finite_changes_no_weight_and_no_moment(clip: str) -> None:
    settings = OptimiserConfig(clip=clip)  # type: ignore[arg-type]
    method = method_of()
    optimiser, updates = build_optimiser(method, settings), Updates(method)
    updates.make(optimiser, clip_gradients(with_gradients(method, 1.0), settings))
    weight = method.model.generative.upsamplings[-1].weight
    before, moment = weight.detach().clone(), optimiser.state[weight]["exp_avg"].clone()
    for skipped in (1, 2):
        with_gradients(method, float("nan"))
        updates.make(optimiser, clip_gradients(method, settings))
        assert updates.skipped_in_a_row() == skipped
    assert torch.equal(weight, before) and torch.equal(optimiser.state[weight]["exp_avg"], moment)
    updates.make(optimiser, clip_gradients(with_gradients(method, 1.0), settings))
    assert updates.skipped_in_a_row() == 0 and not torch.equal(weight, before)
    assert float(optimiser.state[weight]["step"]) == 2


def test_a_batch_that_is_not_finite_does_not_stay_in_the_running_statistics() -> None:
    settings, method = OptimiserConfig(), method_of().train()
    optimiser, updates = build_optimiser(method, settings), Updates(method)
    norm = next(module for module in method.modules() if isinstance(module, nn.BatchNorm2d))
    assert norm.running_mean is not None and norm.running_var is not None
    first = norm.running_mean.clone()

    def read_batch(value: float) -> None:
        norm(torch.full((2, norm.num_features, 3, 3), value))
        updates.make(optimiser, clip_gradients(with_gradients(method, value), settings))

    read_batch(1.0)
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    assert not torch.equal(mean, first)
    read_batch(float("nan"))
    assert torch.equal(norm.running_mean, mean) and torch.equal(norm.running_var, variance)


# --- averaged weights


def test_the_average_moves_by_the_decay_and_forgets_where_it_began() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    averaged = AveragedWeights(layer, decay=0.5)
    nn.init.ones_(layer.weight)
    averaged.update(step=0)  # decay 1 / 10 early in a run
    assert float(averaged.values["weight"]) == pytest.approx(0.9)
    averaged.update(step=1000)
    assert float(averaged.values["weight"]) == pytest.approx(0.95)
    with averaged.in_place():
        assert layer.weight.item() == pytest.approx(0.95)
    assert layer.weight.item() == 1.0


EMA = OptimiserConfig(learning_rate=1e-2, ema=0.9)


@pytest.mark.parametrize(("method", "kind"), [("fsq", "levels"), ("gaussian_vae", "gaussian")])
def test_weights_outside_of_the_model_are_not_averaged_in_part_but_refused(method: str, kind: str) -> None:
    built = build_method(method, Autoencoder(of_kind(TINY_MLP, kind)), {})
    assert averaged_weights(built, None) is None
    with pytest.raises(
        ConfigError, match=r"optimiser\.ema averages the weights of the model, and .* trains layers outside"
    ):
        averaged_weights(built, 0.9)


def test_an_interrupted_run_with_averaged_weights_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path: Path) -> None:
    settings = experiment(TINY_GRID, "vqvae", optimiser=EMA)
    run(settings, tmp_path / "whole")
    assert run(settings, tmp_path / "parts", max_seconds=0)["steps"] == 1
    run(settings, tmp_path / "parts")
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_the_model_of_a_checkpoint_is_the_average_and_both_are_evaluated(tmp_path: Path) -> None:
    settings = experiment(steps=3, optimiser=EMA)
    record = run(settings, tmp_path / "ema")
    plain = run(replace(settings, optimiser=replace(EMA, ema=None)), tmp_path / "plain")
    averaged, own = tensors(tmp_path / "ema"), tensors(tmp_path / "plain")
    name = "recognition.head.weight"
    assert torch.equal(averaged[f"state: raw.{name}"], own[f"model: {name}"])  # averaging changes no step
    assert not torch.equal(averaged[f"model: {name}"], own[f"model: {name}"])
    assert record["validation_raw"] == plain["validation"] != record["validation"]
    kinds = [line["kind"] for line in read_metrics(tmp_path / "ema" / "metrics.jsonl")]
    assert kinds.count("validation") == kinds.count("validation_raw") == 1

    method = build_method("daps", Autoencoder(TINY_MLP), settings.settings)
    load_checkpoint(tmp_path / "ema" / "checkpoint", method, build_optimiser(method, settings.optimiser))
    assert torch.equal(method.model.recognition.head.weight, averaged[f"model: {name}"])


def test_a_checkpoint_written_before_these_settings_were_there_resumes(tmp_path: Path) -> None:
    run(experiment(steps=2), tmp_path / "run", max_seconds=0)
    path = tmp_path / "run" / "checkpoint" / "training.json"
    record = json.loads(path.read_text())
    for key in ("learning_rates", "clip", "clip_ratio", "ema"):
        del record["experiment"]["optimiser"][key]
    path.write_text(json.dumps(record))
    groups = {key.split(".")[1] for key in load_file(path.with_name("state.safetensors")) if "exp_avg" in key}
    assert groups == {"0", "1", "2"}  # recognition model, generative model, η: as they always were
    assert run(experiment(steps=2), tmp_path / "run")["steps"] == 2


# --- what a quiet run leaves


def test_a_run_without_pictures_writes_its_checkpoint_and_its_metrics_and_nothing_else(tmp_path: Path) -> None:
    fit(experiment(steps=2), noise(), tmp_path / "run", show_progress=False, draw_pictures=False)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint", "metrics.jsonl"]
