"""The commands of the studies of motion: paths, goals, language and kinds.

Each imports what it measures with when it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.reports import RESULTS, STUDIES, command_line, show, with_command
from daps_tokenizer import Clip, Tokenizer
from daps_tokenizer.errors import InputError
from daps_tokenizer.evaluation.timing import describe_machine

if TYPE_CHECKING:
    from daps_tokenizer import Generator

_FOLDER = click.Path(path_type=Path)
_MOTION_MODEL = click.option("--model", required=True, help="Built-in name or model folder, of motion.")
_CLIPS = click.option("--data", required=True, type=_FOLDER, help="lafan1_h1.npz or lafan1_g1.npz.")
_SECONDS = click.option("--seconds", default=30.0, show_default=True, help="Of each held-out clip.")


@click.command()
@_MOTION_MODEL
@_CLIPS
@_SECONDS
@click.option("--out", type=_FOLDER, default=STUDIES, show_default="benchmarks/results/studies")
def path(model: str, data: Path, seconds: float, out: Path) -> None:
    """Measure the path of long clips: velocities added up, with planted feet, and with anchors."""
    from benchmarks.studies.path import measure_path, write_path

    tokenizer, clips, content = _held_out(model, data, seconds)
    show(write_path(out, content | {"rows": measure_path(tokenizer, clips)}))


@click.command()
@_MOTION_MODEL
@_CLIPS
@_SECONDS
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=_FOLDER, default=STUDIES, show_default="benchmarks/results/studies")
def goals(model: str, data: Path, seconds: float, seed: int, out: Path) -> None:
    """Measure what a search for a goal gains: speed, turning, feet that stand still, a point to stay away from."""
    from benchmarks.studies.goals import measure_goals, write_goals

    tokenizer, clips, content = _held_out(model, data, seconds)
    show(write_goals(out, content | {"seed": seed, "rows": measure_goals(tokenizer, clips, seed=seed)}))


def _held_out(model: str, data: Path, seconds: float) -> tuple[Tokenizer, list[Clip], dict[str, Any]]:
    """A motion model, the first ``seconds`` of each held-out clip, and what a report says of both."""
    from benchmarks.studies.path import held_out_stretches

    tokenizer = Tokenizer.from_pretrained(model)
    if tokenizer.modality != "motion":
        raise InputError(f"{tokenizer.config.name} is a model of images; expected one of motion")
    clips = held_out_stretches(data, tokenizer, seconds)
    content = with_command(
        model=tokenizer.config.name, weights_sha256=tokenizer.config.weights_sha256, clips=len(clips), seconds=seconds
    )
    return tokenizer, clips, content


@click.command()
@click.argument("generator")
@click.option("--data", type=_FOLDER, help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--model", help="The tokenizer; default: the one that the generator names.")
@click.option("--samples", default=24, show_default=True, type=click.IntRange(min=2), help="Motions of each kind.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--out", type=_FOLDER, default=RESULTS, show_default="benchmarks/results")
def language(generator: str, data: Path | None, model: str | None, samples: int, seed: int, out: Path) -> None:
    """Measure motion that GENERATOR draws by a text and a path: whether it is what was said, and where it goes."""
    from benchmarks.studies.language import measure_language, write_language

    gen, tokenizer, content = _of_motion(generator, model, seed)
    clips = _clips_of(tokenizer, data)
    for written in write_language(out, content | measure_language(gen, tokenizer, clips, samples=samples, seed=seed)):
        click.echo(written)


@click.command()
@click.argument("generator", default="daps-h1-motion-causal")
@click.option("--data", type=_FOLDER, help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--model", help="The tokenizer; default: the one that the generator names.")
@click.option("--samples", default=24, show_default=True, type=click.IntRange(min=4), help="Motions of each kind.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--out", type=_FOLDER, default=RESULTS, show_default="benchmarks/results")
def kinds(generator: str, data: Path | None, model: str | None, samples: int, seed: int, out: Path) -> None:
    """Measure motion that GENERATOR draws of each kind."""
    from benchmarks.studies.kinds import measure_kinds, write_kinds

    gen, tokenizer, content = _of_motion(generator, model, seed)
    clips = _clips_of(tokenizer, data)
    for written in write_kinds(out, content | measure_kinds(gen, tokenizer, clips, samples=samples, seed=seed)):
        click.echo(written)


def _of_motion(generator: str, model: str | None, seed: int) -> tuple[Generator, Tokenizer, dict[str, Any]]:
    """A generator of motion, its tokenizer, and what a report says of both."""
    from daps_tokenizer import Generator

    gen = Generator.from_pretrained(generator)
    tokenizer = Tokenizer.from_pretrained(model or gen.tokenizer.name)
    said = {
        "command": command_line(),
        "machine": describe_machine(),
        "generator": gen.name,
        "model": tokenizer.config.name,
        "weights": f"{gen.name} {gen.config.files['model.safetensors'][:12]}",
        "models": {tokenizer.config.name: f"weights {tokenizer.config.weights_sha256[:12]}"},
        "seed": seed,
    }
    return gen, tokenizer, said


def _clips_of(tokenizer: Tokenizer, data: Path | None) -> Path:
    """The clips of a tokenizer's robot."""
    from daps_tokenizer.motion.robots import robot_of
    from train.data import data_folder

    return data_folder(data) / f"lafan1_{robot_of(tokenizer.config).name}.npz"
