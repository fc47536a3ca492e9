"""``python -m benchmarks control``: train the policy, and measure who stays on its feet.

Each command imports what it runs when it is called.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.reports import STUDIES

_FOLDER = click.Path(path_type=Path)
_DATA = click.option("--data", type=_FOLDER, help="The datasets; else $DAPS_DATA, ../shared/data.")


@click.group()
def control() -> None:
    """Codes that a simulated Unitree G1 follows."""


@control.command()
@click.option("--run", "folder", type=_FOLDER, required=True, help="Where the policy is; resumed if it is there.")
@click.option("--model", help="Follow what this tokenizer decodes, and see its codes; else the clips themselves.")
@click.option("--robots", type=click.IntRange(min=2), default=128, show_default=True, help="Simulated at once.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the simulation.")
@click.option("--clip", "clips", multiple=True, help="Of LAFAN1; repeatable. Default: six walks.")
@click.option("--max-seconds", type=float, default=600.0, show_default=True)
@click.option("--max-steps", type=float, default=float("inf"), help="Control steps of all robots, all runs together.")
@click.option("--seed", type=int, default=0, show_default=True)
@_DATA
def train(
    folder: Path,
    model: str | None,
    robots: int,
    threads: int,
    clips: tuple[str, ...],
    max_seconds: float,
    max_steps: float,
    seed: int,
    data: Path | None,
) -> None:
    """Train the policy with PPO on walks; run again to resume."""
    import torch

    from benchmarks.studies.control.policy import NoCondition, Policy
    from benchmarks.studies.control.ppo import PPOConfig, Trainer
    from benchmarks.studies.control.reference import WALKS, Reference, load_g1_clips
    from benchmarks.studies.control.robot import Physics, Robot
    from benchmarks.studies.control.tracking import Tracking
    from daps_tokenizer.data.place import data_folder

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    place = data_folder(data)
    robot = Robot(place / "g1" / "g1_kinematics.xml")
    motions = load_g1_clips(place / "lafan1_g1.npz", clips or WALKS)
    if model is None:
        reference, condition = Reference.from_clips(robot, motions), NoCondition()
    else:
        from benchmarks.studies.control.coded import coded_reference, encode_clips, lowered
        from daps_tokenizer import Tokenizer

        tokenizer = Tokenizer.from_pretrained(model)
        codes = encode_clips(tokenizer, [lowered(robot, motion) for motion in motions])
        reference, condition = coded_reference(tokenizer, model, robot, codes)
    tracking = Tracking(Physics(robot, threads=threads), reference, robots, seed=seed)
    policy = Policy(tracking.reset().shape[1], condition)
    trainer = Trainer(tracking, policy, PPOConfig(), folder, seed=seed)
    trainer.train(max_seconds=max_seconds, max_steps=max_steps)
    click.echo(f"{trainer.steps:,.0f} control steps; {folder}")
