"""A training step that a CUDA graph can hold: the same step on the same buffers, and nothing of it read on the host.

Without a GPU the step runs on the buffers without being captured, and once on a pretended GPU, which has no values.
"""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.settings import TINY_GRID, TINY_WINDOWS
from train.captured import CapturedStep, MakeStep, prepare_to_capture
from train.methods import Batch
from train.methods.daps import DAPS, DAPSSettings
from train.optimisation import OptimiserConfig, Updates, apply_schedule, build_optimiser, clip_gradients

SETTINGS = DAPSSettings(
    num_samples=1,
    credit="counterfactual",
    alternatives=2,
    trust_region="solved",
    beta_initial=0.1,
    beta_final=0.1,
    batch_norm="frozen",
)
OPTIMISER = OptimiserConfig(learning_rate=1e-2, warmup_steps=2)
ITEMS, STEPS = 4, 4


def counterfactual(config=TINY_GRID, settings: DAPSSettings = SETTINGS) -> DAPS:
    """Codes that depend a little on each other, as those of trained models do."""
    torch.manual_seed(0)
    model = Autoencoder(config)
    with torch.no_grad():
        model.autoregressive.code_embedding.weight.mul_(0.1)
    return DAPS(model, settings)


def step_of(method: DAPS, optimiser: torch.optim.Optimizer) -> MakeStep:
    """What train/loop.py does in a step."""
    updates = Updates(method)

    def make_step(batch: Batch, generator: torch.Generator, progress: float) -> dict[str, torch.Tensor]:
        losses = method(batch, generator, progress)
        optimiser.zero_grad()
        losses.total.backward()
        updates.make(optimiser, clip_gradients(method, OPTIMISER))
        return losses.metrics

    return make_step


@pytest.mark.parametrize("config", [TINY_GRID, TINY_WINDOWS], ids=lambda config: config.name)
def test_steps_that_can_be_captured_have_the_weights_of_todays_steps(config) -> None:
    images = torch.randint(0, 256, (STEPS, ITEMS, *config.input_shape), dtype=torch.uint8)
    trained = []
    for captured in (False, True):
        method = counterfactual(config).train()
        optimiser = build_optimiser(method, OPTIMISER)
        make_step = step_of(method, optimiser)
        if captured:
            prepare_to_capture(method, optimiser)
            make_step = CapturedStep(make_step, torch.device("cpu"))
        passes = []
        for step in range(STEPS):
            apply_schedule(optimiser, OPTIMISER, step, STEPS)
            metrics = make_step(Batch(images[step]), torch.Generator().manual_seed(step), step / STEPS)
            passes.append(float(metrics["passes"]))
        trained.append((copy.deepcopy(method.model.state_dict()), passes))
    (todays, todays_passes), (captured_weights, captured_passes) = trained
    assert captured_passes == todays_passes and max(todays_passes) > 2
    start = counterfactual(config).model.state_dict()
    assert any(not torch.equal(todays[name], start[name]) for name in start)
    torch.testing.assert_close(captured_weights, todays, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [TINY_GRID, TINY_WINDOWS], ids=lambda config: config.name)
def test_a_step_reads_nothing_on_the_host(config) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):  # an error where a value or a shape depends on data
        method = counterfactual(config).train()
        optimiser = build_optimiser(method, OPTIMISER)
        prepare_to_capture(method, optimiser)
        batch = Batch(torch.zeros(ITEMS, *config.input_shape, dtype=torch.uint8))
        assert step_of(method, optimiser)(batch, None, 0.0)["log_p"].shape == ()  # type: ignore[arg-type]


class NothingFromTheHost(TorchDispatchMode):
    """Refuses to bring numbers to the GPU: a CUDA graph would record the address of memory that is gone."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
        result = function(*arguments, **(options or {}))
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = arguments[1] if function is torch.ops.aten.copy_.default else arguments[0]
            if isinstance(source, torch.Tensor):  # a number is an argument of a kernel
                assert source.device == result.device, f"{function} from the {source.device}"
        return result


@pytest.mark.parametrize("config", [TINY_GRID, TINY_WINDOWS], ids=lambda config: config.name)
def test_a_step_takes_nothing_from_the_host(config) -> None:
    method = counterfactual(config).to("meta").train()  # another device than the host's; it has no optimiser
    method.fixed_passes = 8
    batch = Batch(torch.zeros(ITEMS, *config.input_shape, dtype=torch.uint8, device="meta"))
    method(batch, None, 0.0)  # type: ignore[arg-type]  # a step before, which prepares what is made once
    with NothingFromTheHost():
        losses = method(batch, None, 0.0)  # type: ignore[arg-type]
        losses.total.backward()
        finite = clip_gradients(method, OPTIMISER)
    assert {value.device.type for value in [*losses.metrics.values(), finite]} == {"meta"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (DAPSSettings(num_samples=4), "counterfactual credit only"),
        (DAPSSettings(num_samples=1, credit="counterfactual", trust_region="solved"), "beta_final as beta_initial"),
    ],
)
def test_a_step_that_cannot_be_captured_is_refused(settings: DAPSSettings, told: str) -> None:
    method = counterfactual(settings=settings)
    with pytest.raises(ConfigError, match=told):
        prepare_to_capture(method, build_optimiser(method, OPTIMISER))
