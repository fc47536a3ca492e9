"""The networks of generators, p(z | label) over a tokenizer's codes, and one step of drawing from each.

Both are one transformer whose blocks are conditioned as in DiT (Peebles & Xie, 2023): the condition shifts, scales and
gates every block, by one projection that all blocks share (as PixArt-α's adaLN-single). A flow sees all codes at once,
and is also conditioned on the time; a causal model sees the codes before each position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daps_tokenizer.config.generator import GeneratorConfig, TransformerConfig
from daps_tokenizer.model.transformer import LAYER_NORM_EPS, Attention, FeedForward, Memory

_TIME_CHANNELS = 128


class ConditionedBlock(nn.Module):
    """Self-attention and a feed-forward layer, each shifted, scaled and gated by the condition."""

    def __init__(self, sizes: TransformerConfig) -> None:
        super().__init__()
        self.attention = Attention(sizes.hidden_size, sizes.num_heads)
        self.feed_forward = FeedForward(sizes.hidden_size, sizes.mlp_ratio)
        # Shift, scale and gate of both parts, to which the condition adds: a plain block while that adds nothing.
        table = torch.zeros(6, sizes.hidden_size)
        table[[2, 5]] = 1.0
        self.modulation = nn.Parameter(table)

    def forward(
        self, x: Tensor, condition: Tensor, *, causal: bool = False, past: Memory | None = None
    ) -> tuple[Tensor, Memory]:
        """Whole sequences (R, N, H), or the next position (R, 1, H) after those of ``past``.

        Args:
            x: hidden states.
            condition: (R, 6, H), of :class:`CodeTransformer`.
            causal: whether a position sees those before it alone.
            past: keys and values of earlier positions.

        Returns:
            Hidden states, and the keys and values of all positions up to now.
        """
        shift, scale, gate, shift_2, scale_2, gate_2 = (condition + self.modulation)[:, :, None].unbind(1)
        normed = _normalise(x) * (1 + scale) + shift
        memory = self.attention.memory(normed)
        if past is not None:
            memory = Memory(*(torch.cat(pair, dim=-2) for pair in zip(past, memory, strict=True)))
        x = x + gate * self.attention(normed, memory, causal=causal)
        return x + gate_2 * self.feed_forward(_normalise(x) * (1 + scale_2) + shift_2), memory


class CodeTransformer(nn.Module):
    """What both kinds have in common: embeddings of codes, positions and labels, conditioned blocks, and a head."""

    blocks: Sequence[ConditionedBlock]

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config, size = config, config.network.hidden_size
        self.codes = nn.Embedding(config.vocab_size, size)
        self.positions = nn.Parameter(torch.empty(config.num_tokens, size))
        self.labels = nn.Embedding(config.no_label + 1, size)  # the last one stands for any class
        self.condition = nn.Linear(size, 6 * size)
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
            ConditionedBlock(config.network) for _ in range(config.network.num_layers)
        )
        self.head_modulation = nn.Linear(size, 2 * size)
        self.head = nn.Linear(size, config.vocab_size)
        self.apply(_initialise)
        nn.init.normal_(self.positions, std=0.02)
        for layer in (self.condition, self.head_modulation):
            nn.init.zeros_(layer.weight)

    def decode(
        self, x: Tensor, condition: Tensor, *, causal: bool = False, past: Sequence[Memory] = ()
    ) -> tuple[Tensor, list[Memory]]:
        """Embedded codes (R, T, H) and what they are conditioned on (R, H) -> logits (R, T, V) and memories."""
        condition = F.silu(condition)
        of_blocks = self.condition(condition).unflatten(-1, (6, -1))
        memories = []
        for number, block in enumerate(self.blocks):
            x, memory = block(x, of_blocks, causal=causal, past=past[number] if past else None)
            memories.append(memory)
        shift, scale = self.head_modulation(condition)[:, None].chunk(2, dim=-1)
        x = _normalise(x) * (1 + scale) + shift
        return self.head(x.flatten(0, 1)).unflatten(0, x.shape[:2]), memories


class FlowTransformer(CodeTransformer):
    """p(z_1 | z_t, t, label) of discrete flow matching: at time t each code is the data's with probability t."""

    frequencies: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        size = config.network.hidden_size
        self.time = nn.Sequential(nn.Linear(_TIME_CHANNELS, size), nn.SiLU(), nn.Linear(size, size))
        self.time.apply(_initialise)
        octaves = torch.arange(_TIME_CHANNELS // 2, dtype=torch.float64) / (_TIME_CHANNELS // 2)
        frequencies = 1000.0 * torch.exp(-math.log(10000.0) * octaves)
        self.register_buffer("frequencies", frequencies.float(), persistent=False)

    def forward(self, codes: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """Codes z_t (R, N), times (R,) in [0, 1) and labels (R,) -> logits of z_1, (R, N, V)."""
        angles = time[:, None] * self.frequencies
        condition = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1)) + self.labels(labels)
        return self.decode(self.codes(codes) + self.positions, condition)[0]


class CausalTransformer(CodeTransformer):
    """p(z | label) = Π p(z_t | z_<t, label)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        self.start = nn.Parameter(torch.empty(config.network.hidden_size))  # stands before the first code
        nn.init.normal_(self.start)

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Codes (R, N) and labels (R,) -> logits (R, N, V); those of position t are given codes before t."""
        before = self.codes(codes[:, :-1])
        x = torch.cat([self.start.expand(codes.shape[0], 1, -1), before], dim=1) + self.positions
        return self.decode(x, self.labels(labels), causal=True)[0]

    def step(
        self, previous: Tensor, position: Tensor, labels: Tensor, past: Sequence[Memory]
    ) -> tuple[Tensor, list[Memory]]:
        """Logits of one position (R, V), and the memories with it.

        Args:
            previous: codes of the position before, (R,); any at position 0.
            position: its index, int64 ().
            labels: (R,).
            past: keys and values of earlier positions, for each block.
        """
        before = torch.where(position > 0, self.codes(previous), self.start)
        x = (before + self.positions.index_select(0, position[None]))[:, None]
        logits, memories = self.decode(x, self.labels(labels), past=past)
        return logits[:, 0], memories

    def log_prob(self, codes: Tensor, labels: Tensor) -> Tensor:
        """log p(z_t | z_<t, label) in nats, (R, N), of codes (R, N) and labels (R,)."""
        log_p = self.forward(codes, labels).float().log_softmax(-1)
        return log_p.gather(-1, codes.long()[..., None])[..., 0]


def build_generator(config: GeneratorConfig) -> FlowTransformer | CausalTransformer:
    """The network that a config asks for."""
    return FlowTransformer(config) if config.kind == "flow" else CausalTransformer(config)


def guide(logits: Tensor, guidance: Tensor) -> Tensor:
    """Move logits away from those of any class: l + w (l − l_any) (Ho & Salimans, 2022).

    Args:
        logits: (G, B, ...): with the label first; last without it. Where G is 1 nothing changes.
        guidance: w, ().

    Returns:
        (B, ...).
    """
    return logits[0] + guidance * (logits[0] - logits[-1])


def choose(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The first code whose cumulative probability passes the uniform number: (..., V) and (...) -> int64 (...)."""
    cumulative = probabilities.cumsum(-1)
    # Scaled by the last entry, so that rounding in the sum never pushes a draw past the last code.
    below = cumulative <= uniform[..., None] * cumulative[..., -1:]
    return below.float().sum(-1).long().clamp_max(probabilities.shape[-1] - 1)


def sharpen(logits: Tensor, temperature: Tensor) -> Tensor:
    """Probabilities of logits over a temperature; at temperature 0 the most probable code has all of it."""
    return torch.softmax(logits / temperature.clamp_min(1e-6), dim=-1)


def flow_step(
    network: FlowTransformer,
    codes: Tensor,
    step: Tensor,
    steps: Tensor,
    uniform: Tensor,
    labels: Tensor,
    guidance: Tensor,
    temperature: Tensor,
) -> Tensor:
    """One Euler step of the jump process with the rate u = (p − onehot(z_t)) / (1 − t).

    Args:
        network: gives p, of z_1.
        codes: z_t, (B, N).
        step, steps: t is step / steps, both int64 ().
        uniform: (B, N) in [0, 1).
        labels: (G, B): those asked for, and where G is 2 the number that stands for any class.
        guidance: see :func:`guide`.
        temperature: of p.

    Returns:
        z at t + 1 / steps, int64 (B, N): each code jumps to a draw from p with probability 1 / (steps − step).
    """
    time = step.to(torch.float32) / steps
    rows = codes.expand(labels.shape[0], -1, -1).reshape(-1, codes.shape[-1])
    logits = network(rows, time.expand(rows.shape[0]), labels.reshape(-1)).float()
    logits = guide(logits.reshape(labels.shape[0], *codes.shape, -1), guidance)
    jump = 1.0 / (steps - step).to(torch.float32)
    stays = F.one_hot(codes.long(), logits.shape[-1]).to(torch.float32)
    return choose((1 - jump) * stays + jump * sharpen(logits, temperature), uniform)


def causal_step(
    network: CausalTransformer,
    previous: Tensor,
    position: Tensor,
    uniform: Tensor,
    labels: Tensor,
    guidance: Tensor,
    temperature: Tensor,
    past: Sequence[Memory],
) -> tuple[Tensor, list[Memory]]:
    """Draw the codes of one position.

    Args:
        network: gives their probabilities.
        previous: codes of the position before, (B,); any at position 0.
        position: its index, int64 ().
        uniform: (B,) in [0, 1).
        labels, guidance, temperature: as of :func:`flow_step`.
        past: keys and values of earlier positions of G · B rows, for each block; none at position 0.

    Returns:
        Codes int64 (B,), and the memories with this position.
    """
    rows = previous.expand(labels.shape[0], -1).reshape(-1)
    logits, memories = network.step(rows, position, labels.reshape(-1), past)
    guided = guide(logits.float().reshape(*labels.shape, -1), guidance)
    return choose(sharpen(guided, temperature), uniform), memories


def _normalise(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
