"""``daps-tokenize generate``: codes of a class, or of a text and a path, drawn and decoded to images or motion."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from daps_tokenizer.cli.common import Progress, Report, for_each, note_once
from daps_tokenizer.cli.media import ImageMedia, media_of, picture_of, picture_size, suffix_of
from daps_tokenizer.cli.options import Runtime, Tokenizers, force_option, json_option, runtime_options
from daps_tokenizer.cli.outputs import Outputs, is_folder_name
from daps_tokenizer.cli.sources import STANDARD_STREAM, name_of
from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.config.generator import MAX_GUIDANCE
from daps_tokenizer.errors import InputError
from daps_tokenizer.generator import Generator
from daps_tokenizer.hub import built_in_models
from daps_tokenizer.motion.generation import sample_motion
from daps_tokenizer.tokenizer import Tokenizer

_CODES, _GIF = ".daps", ".gif"

_OUTPUT = "Where to write: one picture, NAME.daps for the codes, or a folder that ends with / for a file each."
_LABEL = "What to draw, a name that --labels lists; repeatable: each has its own row in the picture."
_TEXT = "What motion to draw, in words: 'a slow walk, turning left'."
_PATH = "The way of the root, a CSV file: x and y in metres at 30 rows a second, or t, x and y."
_SECONDS = "How long motion is; default: as long as the path, or 6."
_COUNT = "How many of each label; default: 16, or 1 of motion."
_STEPS = "Steps of a flow; more are slower and closer to its law."
_GUIDANCE = "How far to move away from what is drawn without a label or text; 0 for not at all."
_TEMPERATURE = "Below 1 draws what is more probable."
_MODEL = "The tokenizer that decodes the codes; without it, the built-in one that the generator names."
_UNIFORM = "Draw from the uniform prior of a tokenizer: GENERATOR is its name."


@click.command("generate")
@click.argument("generator", metavar="GENERATOR")
@click.option("--label", "labels", multiple=True, help=_LABEL)
@click.option("--text", help=_TEXT)
@click.option("--path", help=_PATH)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help=_SECONDS)
@click.option("-n", "count", type=click.IntRange(1, 1_000_000), help=_COUNT)
@click.option("-o", "output", metavar="OUT", help=_OUTPUT)
@click.option("--seed", type=click.IntRange(min=0), help="The same number draws the same; without it, anew each time.")
@click.option("--steps", type=click.IntRange(min=1), help=_STEPS)
@click.option("--guidance", type=click.FloatRange(0, MAX_GUIDANCE), help=_GUIDANCE)
@click.option("--temperature", type=click.FloatRange(min=0), help=_TEMPERATURE)
@click.option(
    "--labels", "list_labels", is_flag=True, help="List the labels that the generator knows; nothing is drawn."
)
@click.option("--uniform", is_flag=True, help=_UNIFORM)
@click.option("--model", help=_MODEL)
@runtime_options
@force_option
@json_option
def command(
    generator: str,
    labels: tuple[str, ...],
    text: str | None,
    path: str | None,
    seconds: float | None,
    count: int | None,
    output: str | None,
    seed: int | None,
    steps: int | None,
    guidance: float | None,
    temperature: float | None,
    list_labels: bool,
    uniform: bool,
    model: str | None,
    runtime: Runtime,
    force: bool,
    as_json: bool,
) -> None:
    """Draw codes with GENERATOR, and decode them: `daps-tokenize generate daps-cifar10-flow --label horse`,
    `daps-tokenize generate daps-h1-motion-causal --label walk --seconds 6 -o walk.gif`, or
    `daps-tokenize generate daps-g1-text --text "a slow walk, turning left" --seconds 6 -o walk.csv`.

    Images become one picture, GENERATOR.png; with -o FOLDER/ a file each. Motion becomes a CSV file for each clip, or
    one GIF with -o NAME.gif. With -o NAME.daps the codes are written and not decoded.
    """
    if list_labels and (labels or output is not None):
        raise click.UsageError("--labels lists labels and draws nothing; leave out --label and -o.")
    if uniform and model is not None:
        raise click.UsageError("with --uniform, GENERATOR is the tokenizer; leave out --model.")
    tokenizer: Tokenizer | None = None
    if uniform:
        drawing = Generator.uniform(tokenizer := Tokenizers(runtime)[generator])
    else:
        drawing = Generator.from_pretrained(generator, num_threads=runtime.num_threads)
    if list_labels:
        if not drawing.labels:
            takes = "; it takes --text and --path" if drawing.conditions else ""
            note_once("labels", f"{drawing.name} has no labels{takes}")
        for label in drawing.labels:
            print(json.dumps({"label": label}) if as_json else label)
        return
    told: dict[str, Any] = {"text": text, "path": path, "seconds": seconds}
    is_motion = bool(drawing.conditions) or any(value is not None for value in told.values())
    if is_motion and steps is not None:
        raise InputError("--text, --path and --seconds are for generators of motion, which take no --steps")
    draws_motion = is_motion or (tokenizer is not None and tokenizer.modality == "motion")
    number = count or (1 if draws_motion else 16)
    outputs = Outputs([], output, force=force, as_json=as_json)
    named = None if output is None or output == STANDARD_STREAM or is_folder_name(output) else Path(output)
    is_codes = named is not None and named.suffix.lower() == _CODES

    def work(source: str, progress: Progress) -> Report:
        started = time.perf_counter()
        options: dict[str, Any] = {"seed": seed, "steps": steps, "guidance": guidance, "temperature": temperature}
        asked = list(labels) or None
        stem = Path(source).name if not uniform else f"{drawing.tokenizer.name}-uniform"
        items = number * max(1, len(labels))
        opened = tokenizer
        if opened is None and (is_motion or not is_codes):
            opened = _tokenizer_of(drawing, model, runtime)
        if is_codes:
            names, contents_of = outputs.claim(stem, endings=(_CODES,), is_file=False), lambda codes: [codes.to_bytes()]
        else:
            assert opened is not None
            names, contents_of = _plan(opened, items, outputs, stem, labels, output)
        if is_motion:
            assert opened is not None
            options.pop("steps")
            codes = sample_motion(
                drawing, opened, label=asked, num_samples=number, on_progress=progress, **told, **options
            )
        else:
            codes = drawing.sample(asked, number, on_progress=progress, **options)
        for name, content in zip(names, contents_of(codes), strict=True):
            outputs.write(name, content)
        seconds = time.perf_counter() - started
        shown = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"
        of = f" of {', '.join(labels)}" if labels else "" if text is None else f" of {text!r}"
        line = (
            f"{drawing.name} -> {name_of(shown, stream='standard output')}  {items} item{'s' * (items != 1)}{of}, "
            f"{drawing.tokenizer.name}, {seconds:.1f} s"
        )
        record = {
            "generator": drawing.name,
            "tokenizer": drawing.tokenizer.name,
            "outputs": names,
            "labels": list(labels),
            "items": items,
            **{name: value for name, value in (told | options).items() if value is not None},
            "seconds": seconds,
        }
        return Report(line, record)

    for_each([generator], work, as_json=as_json, to_stderr=outputs.to_stdout)


def _tokenizer_of(generator: Generator, model: str | None, runtime: Runtime) -> Tokenizer:
    """The tokenizer that decodes a generator's codes; what made other codes is refused when they are decoded."""
    name = model or generator.tokenizer.name
    if model is None and name not in built_in_models():
        raise InputError(
            f"{generator.name} draws codes of {name!r}, which is not built in; "
            "pass --model with its ./folder or org/name"
        )
    return Tokenizers(runtime)[name]


def _plan(
    tokenizer: Tokenizer, items: int, outputs: Outputs, stem: str, labels: tuple[str, ...], output: str | None
) -> tuple[list[str], Callable[[Codes], list[bytes]]]:
    """Names of the files to write, claimed before anything is drawn, and what makes their contents of codes."""
    media, in_folder = media_of(tokenizer.modality), output is not None and is_folder_name(output)
    if isinstance(media, ImageMedia) and not in_folder:
        (name,) = outputs.claim(stem, endings=media.endings, is_file=False)
        suffix = suffix_of(name, media)
        columns = items // len(labels) if len(labels) > 1 else math.ceil(math.sqrt(items))
        picture_size(items, tokenizer.input_shape, columns, suffix)  # refused now, not after all was drawn
        return [name], lambda codes: [picture_of(tokenizer.decode(codes), columns, suffix)]
    if tokenizer.modality == "motion" and output is not None and output.lower().endswith(_GIF):
        captions = [label for label in labels or ("",) for _ in range(items // max(1, len(labels)))]
        names = outputs.claim(stem, endings=(_GIF,), is_file=False)
        return names, lambda codes: [_animation(tokenizer, codes, captions)]
    numbers = [str(number) for number in range(items)] if items > 1 else [""]
    endings = [*media.endings, *[_GIF] * (tokenizer.modality == "motion"), _CODES]  # the last are for the message
    names = outputs.claim(stem, numbers=numbers, endings=endings, is_file=False)
    return names, lambda codes: media.decode(tokenizer, codes, suffix_of(names[0], media)).files


def _animation(tokenizer: Tokenizer, codes: Codes, captions: list[str]) -> bytes:
    from daps_tokenizer.motion.draw import animate

    clips = tokenizer.decode_to_clips(codes)
    poses, fps, robot = [clip.qpos for clip in clips], clips[0].fps, clips[0].robot
    return animate(poses, captions, fps=fps, robot=robot, follow_each=True)
