"""The policy's networks: an actor and a critic, small, that see the robot, the reference near it, and a condition."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from benchmarks.studies.control.robot import ACTIVE
from export.weights import tidy


class Normaliser(nn.Module):
    """Running mean and variance of observations (Welford, as the paper's appendix J standardises its data)."""

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("count", torch.tensor(1e-4))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Count observations (B, O) in."""
        total = self.count + len(x)
        delta = x.mean(0) - self.mean
        within = self.variance * self.count + x.var(0, unbiased=False) * len(x)
        self.variance.copy_((within + delta.square() * self.count * len(x) / total) / total)
        self.mean.add_(delta * len(x) / total)
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        """Standardised, within ±5."""
        return ((x - self.mean) / (self.variance + 1e-4).sqrt()).clamp(-5, 5)


class NoCondition(nn.Module):
    """Nothing but the reference that the observation has: what a policy is trained with before there are codes."""

    size = 1

    def forward(self, frames: Tensor) -> Tensor:
        """Of frames (B,): zeros (B, 1)."""
        return torch.zeros(len(frames), 1)


class WindowCodes(nn.Module):
    """The codes of the window that a frame is in, through a 1-D convolution, and how far into the window it is.

    Args:
        codes: (windows, N) of the reference.
        place: (T,) of each frame of the reference: its window and the share of the window that is over.
        embeddings: (N, V, E) vectors of the generative model, which stay as they are.
    """

    size = 64

    def __init__(self, codes: Tensor, place: Tensor, embeddings: Tensor) -> None:
        super().__init__()
        self.codes, self.place = codes, place
        self.embed = embeddings
        _, _, width = embeddings.shape
        self.convolution = nn.Conv1d(width + 1, 32, kernel_size=8, stride=4)
        self.out = nn.Linear(32 * ((codes.shape[1] - 8) // 4 + 1), self.size)

    def of_codes(self, codes: Tensor, share: Tensor) -> Tensor:
        """Of codes (B, N) and shares (B,): (B, 64)."""
        vectors = self.embed[torch.arange(codes.shape[1]), codes].transpose(1, 2)
        share = share[:, None, None].expand(-1, 1, vectors.shape[2])
        return self.out(nn.functional.elu(self.convolution(torch.cat([vectors, share], 1))).flatten(1))

    def forward(self, frames: Tensor) -> Tensor:
        """Of frames (B,) of the reference: (B, 64)."""
        place = self.place[frames]
        window = place.floor().long()
        return self.of_codes(self.codes[window], place - window)


class Policy(nn.Module):
    """A Gaussian over actions and a value.

    Args:
        observations: O.
        condition: of frames; see :class:`WindowCodes`.
        hidden: sizes of the hidden layers.
        deviation: of actions at first.
    """

    def __init__(
        self,
        observations: int,
        condition: NoCondition | WindowCodes,
        *,
        hidden: tuple[int, ...] = (256, 128),
        deviation: float = 0.5,
    ) -> None:
        super().__init__()
        self.normalise = Normaliser(observations)
        self.condition = condition
        self.actor = _mlp(observations, hidden, ACTIVE, 0.01)
        self.critic = _mlp(observations, hidden, 1, 0.1)
        self.log_deviation = nn.Parameter(torch.full((ACTIVE,), math.log(deviation)))
        # Added to the first layer, from zero: a trained policy takes codes up without a jump.
        self.to_actor = nn.Linear(condition.size, hidden[0], bias=False)
        self.to_critic = nn.Linear(condition.size, hidden[0], bias=False)
        nn.init.zeros_(self.to_actor.weight)
        nn.init.zeros_(self.to_critic.weight)

    def forward(self, observation: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean actions (B, 15) and values (B,) of standardised observations (B, O)."""
        actor = self.actor[0](observation) + self.to_actor(condition)
        critic = self.critic[0](observation) + self.to_critic(condition)
        return self.actor[1:](actor), self.critic[1:](critic)[:, 0]


def _mlp(size: int, hidden: tuple[int, ...], out: int, gain: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        linear = nn.Linear(size, width)
        nn.init.orthogonal_(linear.weight, math.sqrt(2))
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ELU()]
        size = width
    last = nn.Linear(size, out)
    nn.init.orthogonal_(last.weight, gain)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


class _Exported(nn.Module):
    """What runs on a robot: raw observations, codes and how far into their window it is, to actions."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor, codes: Tensor, share: Tensor) -> Tensor:
        policy, condition = self.policy, self.policy.condition
        if isinstance(condition, WindowCodes):
            seen = condition.of_codes(codes, share)
        else:  # the inputs stay inputs of the graph, so that all policies are run alike
            seen = 0 * share[:, None] + 0 * codes[:, :1]
        return policy(policy.normalise(observation), seen)[0]


def export_policy(policy: Policy, path: Path, *, num_tokens: int = 64) -> None:
    """Write the actor as ONNX: ``observation`` (B, O) float32, ``codes`` (B, N) int64, ``share`` (B,) float32 ->
    ``action`` (B, 15). The observation is that of :meth:`Tracking.observe`, whose size must be the policy's."""
    size = len(policy.normalise.mean)
    arguments = (torch.zeros(2, size), torch.zeros(2, num_tokens, dtype=torch.long), torch.zeros(2))
    names = ("observation", "codes", "share")
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        _Exported(policy).eval(),
        arguments,
        input_names=names,
        output_names=["action"],
        dynamic_shapes={name: {0: batch} for name in names},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # it is written below, weights inside
    onnx.save(tidy(program.model_proto), path)
