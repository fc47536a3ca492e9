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
from daps_tokenizer.model.conditions import BookReader, ConditionEncoder, Conditions
from daps_tokenizer.model.sampling import draw_by_cdf, invert_cdf, sharpen
from daps_tokenizer.model.transformer import LAYER_NORM_EPS, Attention, FeedForward, Head, Memory

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
        self.head = Head(size, config.vocab_size)
        self.apply(_initialise)
        nn.init.normal_(self.positions, std=0.02)
        for layer in (self.condition, self.head_modulation):
            nn.init.zeros_(layer.weight)

    def decode(
        self, x: Tensor, condition: Tensor, *, causal: bool = False, past: Sequence[Memory] = ()
    ) -> tuple[Tensor, list[Memory]]:
        """Embedded codes (R, T, H) and what they are conditioned on (R, H) -> logits (R, T, V) and memories."""
        x, memories = self.transform(x, condition, causal=causal, past=past)
        return self.logits(x, condition), memories

    def transform(
        self, x: Tensor, condition: Tensor, *, causal: bool = False, past: Sequence[Memory] = ()
    ) -> tuple[Tensor, list[Memory]]:
        """The blocks: (R, T, H) -> hidden states (R, T, H) and memories."""
        of_blocks = self.condition(F.silu(condition)).unflatten(-1, (6, -1))
        memories = []
        for number, block in enumerate(self.blocks):
            x, memory = block(x, of_blocks, causal=causal, past=past[number] if past else None)
            memories.append(memory)
        return x, memories

    def logits(self, x: Tensor, condition: Tensor) -> Tensor:
        """Hidden states (R, T, H) -> (R, T, V)."""
        return self.head(self._shifted(x, condition).flatten(0, 1)).unflatten(0, x.shape[:2])

    def _shifted(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.head_modulation(F.silu(condition))[:, None].chunk(2, dim=-1)
        return _normalise(x) * (1 + scale) + shift


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
    """p(z | label, conditions) = Π p(z_t | z_<t, label, conditions).

    Conditions add to what blocks are conditioned on, and stand before the first code as positions of their own.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        size = config.network.hidden_size
        self.start = nn.Parameter(torch.empty(size))  # stands before the first code
        nn.init.normal_(self.start)
        self.books = None
        if config.book_size:
            self.books = BookReader(config.num_tokens, config.vocab_size, config.book_size, size)
        if config.conditions:
            self.conditions = nn.ModuleList()
            for each in config.conditions:
                numbers = each.size * config.book_size if each.codes else each.size
                self.conditions.append(ConditionEncoder(each, numbers, size).apply(_initialise))
            tokens = sum(each.tokens for each in config.conditions)
            self.condition_positions = nn.Parameter(torch.randn(tokens, size) * 0.02)

    def forward(self, codes: Tensor, labels: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Codes (R, N) and labels (R,) -> logits (R, N, V); those of position t are given codes before t."""
        condition, prefix = self.encode(labels, conditions)
        before = self.codes(codes[:, :-1])
        if self.books is not None:
            before = before + self.books.embed(codes[:, :-1])
        x = torch.cat([self.start.expand(codes.shape[0], 1, -1), before], dim=1) + self.positions
        x, _ = self.transform(torch.cat([prefix, x], dim=1), condition, causal=True)
        return self._all_logits(x[:, prefix.shape[1] :], condition, None)

    def encode(self, labels: Tensor, conditions: Conditions | None) -> tuple[Tensor, Tensor]:
        """What blocks are conditioned on, (R, H), and what stands before the codes, (R, tokens, H)."""
        condition = self.labels(labels)
        if conditions is None:
            return condition, condition.new_zeros(condition.shape[0], 0, condition.shape[1])
        tokens = []
        for each, encoder, values, known in zip(
            self.config.conditions, self.conditions, conditions.values, conditions.known.unbind(1), strict=True
        ):
            if each.codes:
                assert self.books is not None  # checked by the config
                values = self.books.entries(values).flatten(1)
            share, positions = encoder(values, known).tensor_split([1], dim=1)
            condition = condition + share[:, 0]
            tokens.append(positions)
        return condition, torch.cat(tokens, dim=1) + self.condition_positions

    def begin(self, labels: Tensor, conditions: Conditions) -> tuple[Tensor, list[Memory]]:
        """What :meth:`step` needs at the first position: the condition (R, H), and memories of what stands before."""
        condition, prefix = self.encode(labels, conditions)
        return condition, self.transform(prefix, condition, causal=True)[1]

    def step(
        self, previous: Tensor, position: Tensor, condition: Tensor, past: Sequence[Memory]
    ) -> tuple[Tensor, list[Memory]]:
        """Logits of one position (R, V), and the memories with it.

        Args:
            previous: codes of the position before, (R,); any at position 0.
            position: its index, int64 ().
            condition: (R, H), see :meth:`encode`.
            past: keys and values of earlier positions, for each block.
        """
        code = self.codes(previous)
        if self.books is not None:
            code = code + self.books.embed_one(previous, (position - 1).clamp_min(0))
        before = torch.where(position > 0, code, self.start)
        x = (before + self.positions.index_select(0, position[None]))[:, None]
        x, memories = self.transform(x, condition, past=past)
        return self._all_logits(x, condition, position)[:, 0], memories

    def log_prob(self, codes: Tensor, labels: Tensor, conditions: Conditions | None = None) -> Tensor:
        """log p(z_t | z_<t, ...) in nats, (R, N), of codes (R, N) and labels (R,)."""
        log_p = self.forward(codes, labels, conditions).float().log_softmax(-1)
        return log_p.gather(-1, codes.long()[..., None])[..., 0]

    def _all_logits(self, x: Tensor, condition: Tensor, position: Tensor | None) -> Tensor:
        """With what the code books say, where there are any."""
        logits = self.logits(x, condition)
        if self.books is None:
            return logits
        return logits.float() + self.books.logits(self._shifted(x, condition), position)


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
    return draw_by_cdf((1 - jump) * stays + jump * sharpen(logits, temperature), uniform)


def causal_step(
    network: CausalTransformer,
    previous: Tensor,
    position: Tensor,
    uniform: Tensor,
    condition: Tensor,
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
        condition: (G, B, H): of what is asked for, and where G is 2 of what guidance moves away from.
        guidance, temperature: as of :func:`flow_step`.
        past: keys and values of earlier positions of G · B rows, for each block; none at position 0.

    Returns:
        Codes int64 (B,), and the memories with this position.
    """
    rows = previous.expand(condition.shape[0], -1).reshape(-1)
    logits, memories = network.step(rows, position, condition.flatten(0, 1), past)
    guided = guide(logits.float().reshape(*condition.shape[:2], -1), guidance)
    return invert_cdf(guided, uniform, temperature), memories


def _normalise(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
