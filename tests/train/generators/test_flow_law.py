"""Discrete flow matching draws from the exact law of a toy that can be enumerated: two positions, three codes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from daps_tokenizer.config.generator import GeneratorConfig, TokenizerReference, TransformerConfig
from daps_tokenizer.model.autoencoder import load_weights
from daps_tokenizer.model.generators import FlowTransformer, build_generator, flow_step
from train.data import Dataset
from train.generators.codes import CodeItems, CodesConfig
from train.generators.experiment import GeneratorExperiment
from train.loop import fit
from train.optimisation import OptimiserConfig

STATES = torch.tensor(list(itertools.product(range(3), repeat=2)))  # (9, 2)
LAW = torch.tensor([0.30, 0.02, 0.03, 0.05, 0.25, 0.05, 0.02, 0.03, 0.25], dtype=torch.float64)
ONE = torch.tensor(1.0)


class ExactPosterior(nn.Module):
    """log p(z_1 at each position | z_t, t) by Bayes' rule, in place of a trained network."""

    def forward(self, codes: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        same = (codes[:, None, :] == STATES).double()  # (R, 9, 2)
        t = time.double()[:, None, None]
        likelihood = (t * same + (1 - t) / 3).prod(2) * LAW
        posterior = likelihood / likelihood.sum(1, keepdim=True)
        return torch.einsum("rs,snv->rnv", posterior, nn.functional.one_hot(STATES, 3).double()).log().float()


def law_after(network: nn.Module, steps: int) -> Tensor:
    """The law (9,) of the codes after all Euler steps, by multiplying transition matrices."""
    law = torch.full((9,), 1 / 9, dtype=torch.float64)
    for step in range(steps):
        time = torch.full((9,), step / steps)
        p = network(STATES, time, torch.zeros(9, dtype=torch.long)).double().softmax(-1)
        jump = 1 / (steps - step)
        moved = (1 - jump) * nn.functional.one_hot(STATES, 3) + jump * p  # (9, 2, 3), each position by itself
        matrix = moved[:, 0, STATES[:, 0]] * moved[:, 1, STATES[:, 1]]
        law = law @ matrix
    return law


def distance(ours: Tensor, others: Tensor) -> float:
    """In total variation."""
    return float((ours - others).abs().sum() / 2)


def test_the_law_of_the_steps_tends_to_that_of_the_data() -> None:
    distances = [distance(law_after(ExactPosterior(), steps), LAW) for steps in (5, 20, 80)]
    assert distances[0] > 3 * distances[1] > 9 * distances[2]  # an error of the order of the step
    assert distances[2] < 0.01


def test_drawn_codes_have_the_law_of_the_steps() -> None:
    count, steps = 20_000, 8
    uniform = torch.rand(steps + 1, count, 2, generator=torch.Generator().manual_seed(0))
    codes, labels = (uniform[0] * 3).long(), torch.zeros(1, count, dtype=torch.long)
    for step in range(steps):
        times = torch.tensor(step), torch.tensor(steps)
        codes = flow_step(ExactPosterior(), codes, *times, uniform[step + 1], labels, ONE, ONE)  # type: ignore[arg-type]
    expected = law_after(ExactPosterior(), steps)
    found = torch.bincount(codes[:, 0] * 3 + codes[:, 1], minlength=9) / count
    error = (expected * (1 - expected) / count).sqrt()
    assert ((found - expected).abs() < 4.5 * error).all()


@pytest.mark.slow
def test_the_law_is_that_of_the_scheduler_of_diffusers() -> None:
    """Its steps are draws of another posterior, that of D3PM; both tend to the same law, and at 60 steps they agree."""
    schedulers = pytest.importorskip("diffusers.schedulers.scheduling_discrete_ddim")
    count, steps = 100_000, 60
    scheduler = schedulers.DiscreteDDIMScheduler(num_inference_steps=steps)
    random = torch.Generator().manual_seed(0)
    codes = torch.randint(3, (count, 2), generator=random)
    for step in range(steps):
        logits = ExactPosterior()(codes, torch.full((count,), step / steps), torch.zeros(count))
        codes = scheduler.step(logits, step, codes, temperature=1.0, generator=random).prev_sample
    found = torch.bincount(codes[:, 0] * 3 + codes[:, 1], minlength=9) / count
    assert distance(found, law_after(ExactPosterior(), steps)) < 0.01 < distance(found, torch.full((9,), 1 / 9)) / 10


@pytest.mark.slow
def test_a_trained_network_draws_from_the_law_of_its_data(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).choice(9, size=20_000, p=LAW.numpy())
    codes = STATES.numpy()[rows][:, None].astype(np.uint8)
    items = CodeItems(codes, np.full(len(codes), -1))
    network = TransformerConfig(hidden_size=32, num_layers=1, num_heads=2)
    model = GeneratorConfig("toy", "flow", TokenizerReference("toy", ""), 2, 3, network)
    experiment = GeneratorExperiment(
        "toy", "flow", CodesConfig("unused"), steps=600, batch_size=256, network=network, model=model,
        optimiser=OptimiserConfig(learning_rate=3e-3, schedule="cosine", ema=0.99), evaluate_every=600,
    )  # fmt: skip
    data = Dataset(items, items, train_labels=items.labels, test_labels=items.labels, validation=items)
    fit(experiment, data, tmp_path / "run", show_progress=False, draw_pictures=False)
    trained = build_generator(model).eval()
    assert isinstance(trained, FlowTransformer)
    load_weights(trained, tmp_path / "run" / "checkpoint" / "model.safetensors")
    with torch.no_grad():
        assert distance(law_after(trained, 60), LAW) < 0.05  # 0.01 of it are the steps; the uniform law is 0.45 away
