"""Search over codes for a goal: make a motion faster or slower, and keep it a motion that the model knows.

    python examples/motion_goal.py examples/walk.csv --speed 1.0 -o faster.csv

The score is a function of one's own: how near the forward speed of the root is to the goal, less what log q(z|x) says
against the codes. ``BestOf`` draws whole windows of codes from q(z|x) and keeps the best by that score; ``LocalSearch``
improves the greedy codes one by one. Neither needs a gradient, so a score may be anything that can be computed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from daps_tokenizer import BestOf, Clip, LocalSearch, Tokenizer
from daps_tokenizer.backends.protocol import Decoded
from daps_tokenizer.errors import DapsError, OutputExistsError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Search over codes for a forward speed.")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--speed", type=float, default=1.0, help="of the root along its heading, m/s")
    parser.add_argument("--model", default="daps-h1-motion")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=1.5, help="above 1, samples stray farther from the clip")
    parser.add_argument("-o", "--output", type=Path, default=Path("goal.csv"))
    chosen = parser.parse_args(arguments)
    if chosen.output.exists():
        raise OutputExistsError(f"{chosen.output} already exists; name another file with -o")

    tokenizer = Tokenizer.from_pretrained(chosen.model)
    forward = tokenizer.config.motion.feature_names.index("root_velocity_x")

    def nearness(features: np.ndarray, decoded: Decoded, codes: np.ndarray) -> np.ndarray:
        """Of the mean forward speed of each window (B, 32, F) to the goal, (B,)."""
        return -np.abs(decoded.reconstruction[..., forward].mean(1) - chosen.speed)

    clip = Clip.load(chosen.clip)
    print(f"{'original':14} {forward_speed(clip):.2f} m/s")
    ways = {
        "greedy codes": None,
        "best of": BestOf(chosen.samples, temperature=chosen.temperature, score=nearness),
        "local search": LocalSearch(proposals=4, score=nearness, log_q_weight=0.001),
    }
    found: dict[str, Clip] = {}
    for name, search in ways.items():
        codes = tokenizer.encode(clip, search=search)
        (found[name],) = tokenizer.decode_to_clips(codes)
        log_q = tokenizer.log_prob(clip, codes)[0]
        print(f"{name:14} {forward_speed(found[name]):.2f} m/s, log q(z|x) {log_q:.0f} nats")
    best = min(found.values(), key=lambda each: abs(forward_speed(each) - chosen.speed))
    best.save(chosen.output, overwrite=False)
    print(chosen.output)


def forward_speed(clip: Clip) -> float:
    """Length of the path of the root along the ground over the time it took, m/s."""
    steps = np.linalg.norm(np.diff(clip.qpos[:, :2], axis=0), axis=1)
    return float(steps.mean() * clip.fps)


if __name__ == "__main__":
    try:
        main()
    except DapsError as error:
        sys.exit(f"error: {error}")
