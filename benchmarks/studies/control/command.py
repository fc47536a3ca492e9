"""``python -m benchmarks control``: train the policy, and measure who stays on its feet.

Each command imports what it runs when it is called.
"""

from __future__ import annotations

import importlib.metadata
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
@click.option(
    "--by",
    type=click.Choice(["imagined", "ppo"]),
    default="imagined",
    show_default=True,
    help="Gradients through learned dynamics, or PPO.",
)
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
    by: str,
    model: str | None,
    robots: int,
    threads: int,
    clips: tuple[str, ...],
    max_seconds: float,
    max_steps: float,
    seed: int,
    data: Path | None,
) -> None:
    """Train the policy on walks; run again to resume."""
    import torch

    from benchmarks.studies.control.imagined import ImaginedConfig, ImaginedTrainer
    from benchmarks.studies.control.policy import NoCondition, Policy, WindowCodes
    from benchmarks.studies.control.ppo import PPOConfig, PPOTrainer
    from benchmarks.studies.control.reference import WALKS, Reference, load_g1_clips
    from benchmarks.studies.control.robot import Physics, Robot
    from benchmarks.studies.control.tracking import Tracking
    from benchmarks.studies.control.training import Trainer
    from daps_tokenizer.data.place import data_folder

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    place = data_folder(data)
    robot = Robot(place / "g1" / "g1_kinematics.xml")
    motions = load_g1_clips(place / "lafan1_g1.npz", clips or WALKS)
    condition: NoCondition | WindowCodes
    if model is None:
        reference, condition = Reference.from_clips(robot, motions), NoCondition()
    else:
        from benchmarks.studies.control.coded import code_vectors, coded_reference, encode_clips, lowered
        from daps_tokenizer import Tokenizer

        tokenizer = Tokenizer.from_pretrained(model)
        codes = encode_clips(tokenizer, [lowered(robot, motion) for motion in motions])
        reference, table, at = coded_reference(tokenizer, robot, codes)
        vectors = code_vectors(tokenizer, model)
        condition = WindowCodes(torch.from_numpy(table).long(), torch.from_numpy(at).float(), vectors)
    tracking = Tracking(Physics(robot, threads=threads), reference, robots, seed=seed)
    observations = tracking.reset().shape[1]
    trainer: Trainer
    if by == "ppo":
        trainer = PPOTrainer(tracking, Policy(observations, condition, deviation=1.0), PPOConfig(), folder, seed=seed)
    else:
        trainer = ImaginedTrainer(tracking, Policy(observations, condition), ImaginedConfig(), folder, seed=seed)
    trainer.train(max_seconds=max_seconds, max_steps=max_steps)
    click.echo(f"{trainer.steps:,.0f} control steps; {folder}")


@control.command()
@click.option("--run", "folder", type=_FOLDER, required=True, help="Where `control train` put the policy.")
@click.option("--model", help="The tokenizer that it was trained with, if any.")
@click.option("-o", "--output", type=_FOLDER, required=True, help="The ONNX file.")
def export(folder: Path, model: str | None, output: Path) -> None:
    """Write a trained policy as ONNX."""
    import torch

    from benchmarks.studies.control.policy import NoCondition, Policy, WindowCodes, export_policy
    from benchmarks.studies.control.training import load_network, policy_size
    from daps_tokenizer.errors import OutputExistsError

    if output.exists():
        raise OutputExistsError(f"{output} already exists; name another file with -o")
    condition: NoCondition | WindowCodes = NoCondition()
    if model is not None:
        from benchmarks.studies.control.coded import code_vectors
        from daps_tokenizer import Tokenizer

        vectors = code_vectors(Tokenizer.from_pretrained(model), model)
        condition = WindowCodes(torch.zeros(1, len(vectors), dtype=torch.long), torch.zeros(1), vectors)
    path = folder / "policy.safetensors"
    policy = Policy(policy_size(path), condition)
    load_network(policy, path)
    export_policy(policy, output)
    click.echo(output)


@control.command()
@click.option("--run", "folders", type=_FOLDER, multiple=True, required=True, help="Of `control train`; repeatable.")
@click.option("--out", type=_FOLDER, default=STUDIES, show_default="benchmarks/results/studies")
@click.option("--name", default="control_training", show_default=True, help="Of the report.")
def curve(folders: tuple[Path, ...], out: Path, name: str) -> None:
    """Write how training went: a table and a picture."""
    from benchmarks.reports import command_line, show
    from benchmarks.studies.control.curve import read_log, write_curves
    from daps_tokenizer.evaluation.timing import describe_machine

    machine = describe_machine() | {"mujoco": importlib.metadata.version("mujoco")}
    logs = {folder.name: read_log(folder / "log.jsonl") for folder in folders}
    show(write_curves(out, name, logs, machine, [command_line()]))


@control.command()
@click.option("--model", required=True, help="A tokenizer of G1 motion.")
@click.option("--policy", "path", type=_FOLDER, help="ONNX, from `control export`; of the way `policy`.")
@click.option(
    "--way",
    "ways",
    multiple=True,
    type=click.Choice(["original", "greedy", "searched", "mpc", "policy"]),
    help="Repeatable. Default: all without --policy, else `policy` alone.",
)
@click.option("--walks", type=click.IntRange(min=0), default=4, show_default=True, help="Stretches of walking.")
@click.option("--dances", type=click.IntRange(min=0), default=3, show_default=True)
@click.option("--runs", type=click.IntRange(min=0), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.2), default=5.0, show_default=True, help="Of a stretch.")
@click.option("--candidates", type=click.IntRange(min=4), default=24, show_default=True, help="Of MPC, a round.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", type=_FOLDER, default=STUDIES, show_default="benchmarks/results/studies")
@click.option("--name", default="control", show_default=True, help="Of the report.")
@_DATA
def measure(
    model: str,
    path: Path | None,
    ways: tuple[str, ...],
    walks: int,
    dances: int,
    runs: int,
    seconds: float,
    candidates: int,
    seed: int,
    out: Path,
    name: str,
    data: Path | None,
) -> None:
    """Follow held-out walking, dancing and running: seconds until a fall, tracking error, torque, time."""
    from benchmarks.reports import command_line, show
    from benchmarks.studies.control.follow import ExportedPolicy
    from benchmarks.studies.control.measure import WAYS, write_measured
    from benchmarks.studies.control.measure import measure as measure_ways
    from benchmarks.studies.control.robot import Physics, Robot
    from benchmarks.studies.probes import weights_sha256
    from daps_tokenizer import Tokenizer
    from daps_tokenizer.data.place import data_folder
    from daps_tokenizer.errors import InputError
    from daps_tokenizer.evaluation.timing import describe_machine

    counts = {kind: count for kind, count in (("walk", walks), ("dance", dances), ("run", runs)) if count}
    if not counts:
        raise InputError("no stretches; expected at least one of --walks, --dances, --runs")
    place = data_folder(data)
    tokenizer = Tokenizer.from_pretrained(model)
    rows = measure_ways(
        tokenizer,
        Physics(Robot(place / "g1" / "g1_kinematics.xml")),
        place,
        counts=counts,
        seconds=seconds,
        ways=ways or (WAYS[:-1] if path is None else WAYS[-1:]),
        seed=seed,
        candidates=candidates,
        policy=None if path is None else ExportedPolicy(path),
    )
    machine = describe_machine() | {"mujoco": importlib.metadata.version("mujoco")}
    about: dict[str, object] = {
        "model": tokenizer.config.name,
        "model_sha256": weights_sha256(model),
        "stretch_seconds": seconds,
        "seed": seed,
    }
    about["candidates"] = candidates
    show(write_measured(out, name, rows, about, machine, [command_line()]))
