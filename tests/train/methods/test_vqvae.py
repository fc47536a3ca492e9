"""The warm start: a VQ-VAE whose checkpoint is an autoregressive model, and distillation of its codes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sampling import sample_codes
from tests.settings import TINY_GRID, TINY_MLP
from train.methods.base import Batch, Method
from train.methods.distil import Distillation, DistillationSettings
from train.methods.vqvae import NEXT_CODES, VQVAE, VQVAESettings

configs = pytest.mark.parametrize("config", [TINY_MLP, TINY_GRID], ids=lambda config: config.name)


def vqvae(config: TokenizerConfig = TINY_MLP, **settings: float) -> VQVAE:
    """A quantiser as a run begins it, with codes close enough to the hidden states for several to be used."""
    torch.manual_seed(0)
    method = VQVAE(Autoencoder(config), VQVAESettings(**settings))
    method.start()
    return method.train()


def images(config: TokenizerConfig = TINY_MLP, count: int = 8) -> Tensor:
    return torch.randint(0, 256, (count, *config.input_shape), generator=torch.Generator().manual_seed(1)).byte()


def train(method: Method, inputs: Tensor, steps: int, learning_rate: float = 3e-3) -> list[dict[str, float]]:
    optimiser = torch.optim.AdamW([p for p in method.model.parameters() if p.requires_grad], lr=learning_rate)
    history = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        losses = method(Batch(inputs), generator, step / steps)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        method.after_step(step, generator)
        history.append({name: float(value) for name, value in losses.metrics.items()})
    return history


def hidden(method: VQVAE, inputs: Tensor) -> Tensor:
    recognition = method.model.recognition
    return recognition.hidden_without_codes(recognition.context(method.model.standardise(inputs)))


def quantiser_codes(method: VQVAE, inputs: Tensor) -> Tensor:
    x = method.model.standardise(inputs)
    return method.encode(x, torch.zeros(len(x), method.model.config.num_tokens), 0.0).codes


# --- quantising


@configs
def test_codes_are_the_nearest_vectors_of_the_table(config: TokenizerConfig) -> None:
    method, inputs = vqvae(config), images(config)
    distances = torch.cdist(hidden(method, inputs), method.model.generative.embedding.weight)
    assert torch.equal(quantiser_codes(method, inputs), distances.argmin(-1))


def test_the_gradient_passes_straight_through_the_quantiser_to_the_recognition_model() -> None:
    method, inputs = vqvae(commitment=0.0), images()
    recognition = [p for p in method.model.recognition.parameters() if p.requires_grad]
    found = torch.autograd.grad(method(Batch(inputs), torch.Generator(), 0.0).total, recognition, allow_unused=True)

    chosen = method.model.generative.embedding(quantiser_codes(method, inputs)).detach().requires_grad_()
    log_p = method.model.likelihood.log_prob(
        method.model.generative.decode_embedded(chosen), method.model.standardise(inputs)
    )
    (arriving,) = torch.autograd.grad(-log_p.mean(), chosen)
    expected = torch.autograd.grad(hidden(method, inputs), recognition, arriving, allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_table_follows_the_hidden_states_and_not_the_reconstruction() -> None:
    method, inputs = vqvae(), images()
    table = method.model.generative.embedding.weight
    (found,) = torch.autograd.grad(method(Batch(inputs), torch.Generator(), 0.0).total, table)
    chosen = method.model.generative.embedding(quantiser_codes(method, inputs))
    (expected,) = torch.autograd.grad((hidden(method, inputs).detach() - chosen).square().mean(), table)
    torch.testing.assert_close(found, expected)


# --- its checkpoint is an autoregressive model


@configs
def test_the_greedy_codes_of_the_checkpoint_are_the_quantisers(config: TokenizerConfig) -> None:
    method, inputs = vqvae(config, revive_every=2, revive_below=0.5), images(config, count=32)
    train(method, inputs, steps=6)
    method.before_checkpoint()
    saved = Autoencoder(config).eval()
    saved.load_state_dict(method.model.state_dict())
    context = saved.recognition.context(saved.standardise(inputs))
    greedy = sample_codes(saved.recognition, context, torch.zeros(32, config.num_tokens), temperature=0.0)
    assert torch.equal(greedy.codes, quantiser_codes(method, inputs))
    assert len(greedy.codes.unique()) > 4


def test_a_vqvae_started_from_any_model_ignores_the_codes_it_draws() -> None:
    torch.manual_seed(0)
    method = VQVAE(Autoencoder(TINY_MLP), VQVAESettings())
    torch.nn.init.normal_(method.model.recognition.code_embedding.weight)  # as loaded from a DAPS checkpoint
    method.start()
    recognition, inputs = method.model.recognition, images()
    context = recognition.context(method.model.standardise(inputs))
    codes = torch.randint(0, 16, (8, 8))
    torch.testing.assert_close(recognition.hidden(context, codes), recognition.hidden_without_codes(context))


@pytest.mark.parametrize("gap", [0.5, 2.0])
@pytest.mark.parametrize("vocab_size", [2, NEXT_CODES, 16])
def test_the_head_is_scaled_to_the_wanted_gap_between_a_code_and_the_next(gap: float, vocab_size: int) -> None:
    method, inputs = vqvae(replace(TINY_MLP, vocab_size=vocab_size), logit_gap=gap), images()
    method(Batch(inputs), torch.Generator(), 0.0)
    method.before_checkpoint()
    recognition = method.model.recognition
    best = recognition.head(hidden(method, inputs)).topk(min(NEXT_CODES + 1, vocab_size)).values
    assert float((best[..., 0] - best[..., 1:].mean(-1)).mean().detach()) == pytest.approx(gap, rel=1e-3)


def test_training_leaves_what_a_parallel_encoder_does_not_use_alone() -> None:
    method = vqvae()
    head = method.model.recognition.head.weight.clone()
    train(method, images(), steps=2)
    assert torch.equal(method.model.recognition.head.weight, head)
    assert not method.model.recognition.code_embedding.weight.any()


# --- revival


def test_only_codes_that_hardly_anything_chose_are_moved_and_to_recent_hidden_states() -> None:
    method, inputs = vqvae(revive_every=4, revive_below=0.1), images()
    method(Batch(inputs), torch.Generator(), 0.0)
    before = method.model.generative.embedding.weight.detach().clone()
    recent = hidden(method, inputs).flatten(0, 1)
    method.recent.copy_(recent.repeat(1024 // len(recent), 1))
    method.usage.fill_(10.0)
    method.usage[[2, 7]] = torch.tensor([0.0, 0.5])
    for step in range(3):
        method.after_step(step, torch.Generator())
    assert torch.equal(method.model.generative.embedding.weight, before)
    method.after_step(3, torch.Generator())
    after = method.model.generative.embedding.weight
    assert (after != before).any(1).nonzero()[:, 0].tolist() == [2, 7]
    assert all((row == recent).all(1).any() for row in after[[2, 7]])
    assert not method.usage.any(), "counting begins anew"


def test_hidden_states_of_small_batches_fill_the_store_that_codes_are_revived_from() -> None:
    method, inputs = vqvae(), images(count=64)  # 512 hidden states a step, the store holds 1024
    for _ in range(2):
        method(Batch(inputs), torch.Generator(), 0.0)
    assert method.recent.any(1).all()


def test_before_the_store_is_full_codes_are_revived_from_what_is_in_it() -> None:
    method, inputs = vqvae(revive_every=1, revive_below=0.5), images()
    method(Batch(inputs), torch.Generator(), 0.0)
    method.usage.fill_(10.0)
    method.usage[[2, 7]] = 0.0
    recent = hidden(method, inputs).flatten(0, 1)
    method.after_step(0, torch.Generator())
    assert all((row == recent).all(1).any() for row in method.model.generative.embedding.weight[[2, 7]])


def test_late_in_a_run_no_code_is_revived() -> None:
    method = vqvae(revive_every=1, revive_below=0.5, revive_until=0.7)
    before = method.model.generative.embedding.weight.detach().clone()
    method(Batch(images()), torch.Generator(), 0.7)
    method.after_step(0, torch.Generator())
    assert torch.equal(method.model.generative.embedding.weight, before)


# --- distillation


def test_distillation_keeps_the_teacher_and_its_codes_and_makes_them_more_probable() -> None:
    teacher, inputs = vqvae(), images(count=16)
    train(teacher, inputs, steps=3)
    teacher.before_checkpoint()
    teacher.model.requires_grad_(True)  # as the model of a new run
    method = Distillation(teacher.model, DistillationSettings())
    method.start()
    frozen = [*method.teacher.parameters(), *method.model.generative.parameters()]
    before = [p.detach().clone() for p in frozen]
    history = train(method, inputs, steps=40, learning_rate=1e-2)
    assert history[-1]["log_q"] > history[0]["log_q"] + 1.0
    assert history[0]["agreement"] > 0.9 and history[-1]["agreement"] > 0.9
    assert all(torch.equal(a, b) for a, b in zip(frozen, before, strict=True))


@pytest.mark.parametrize("weight", [0.0, 2.5])
def test_the_reward_may_count_squared_errors(weight: float) -> None:
    method, inputs = vqvae(commitment=0.0, squared_error_weight=weight).eval(), images()
    x = method.model.standardise(inputs)
    values = method.model.cell_values(x, quantiser_codes(method, inputs))
    reward = (values.log_likelihood - weight * values.squared_error).sum() / x.numel()
    losses = method(Batch(inputs), torch.Generator(), 0.0)
    torch.testing.assert_close(losses.total, losses.metrics["codebook_loss"] - reward, rtol=1e-4, atol=1e-5)


# --- settings that make no sense


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings in ({"commitment": -1.0}, {"revive_every": -1}, {"logit_gap": 0.0}):
        with pytest.raises(ConfigError, match="commitment and revive_every of at least 0 and a positive logit_gap"):
            VQVAESettings(**settings)
    with pytest.raises(ConfigError, match="squared_error_weight must be finite and at least 0, not -1"):
        VQVAESettings(squared_error_weight=-1.0)


def test_a_table_of_other_vectors_than_the_recognition_models_is_refused() -> None:
    config = replace(TINY_MLP, generative=replace(TINY_MLP.generative, embedding_size=32))
    with pytest.raises(ConfigError, match=r"embedding_size to equal recognition\.hidden_size"):
        vqvae(config)


def test_a_batch_that_is_not_finite_leaves_nothing_in_the_code_table() -> None:
    method = vqvae(TINY_GRID, revive_every=1)
    method(Batch(images(TINY_GRID)), torch.Generator().manual_seed(0), 0.0)
    before = {name: value.clone() for name, value in method.named_buffers(recurse=False)}
    h = torch.full((2, TINY_GRID.num_tokens, method.recent.shape[1]), torch.nan)
    method._observe(h, method._quantise(h), 0.1, torch.Generator().manual_seed(1))
    assert before and all(torch.equal(value, before[name]) for name, value in method.named_buffers(recurse=False))
    method.after_step(0, torch.Generator().manual_seed(2))
    assert method.model.generative.embedding.weight.isfinite().all()
