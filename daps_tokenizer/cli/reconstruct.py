"""``daps-tokenize reconstruct``: what is left of an image or a motion, to look at and in numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np

from daps_tokenizer.cli.common import (
    Outputs,
    Progress,
    Report,
    Runtime,
    for_each,
    force_option,
    json_option,
    name_of,
    runtime_options,
)
from daps_tokenizer.cli.encoding import Encoding, encoding_options
from daps_tokenizer.cli.media import default_model, media_of, open_tokenizers, side_by_side, suffix_of
from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.motion.draw import animate
from daps_tokenizer.motion.plot import plot_joints

_COMPARE = (
    "Of an image: write the original, as the model sees it, to the left of it; with --search, between them what "
    "greedy codes give."
)
_GIF = "Of a clip: draw original and reconstruction as stick figures; with --search, greedy codes between them."


def _gif(clip: Clip, decoded: list[np.ndarray]) -> bytes:
    captions = ["original", *["greedy codes"] * (len(decoded) - 1), "reconstruction"]
    return animate([clip.qpos, *decoded], captions, fps=clip.fps)


def _plot(clip: Clip, decoded: list[np.ndarray]) -> bytes:
    return plot_joints(clip.qpos, decoded[-1], fps=clip.fps)


_DRAW: dict[str, Callable[[Clip, list[np.ndarray]], bytes]] = {"--gif": _gif, "--plot": _plot}


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="FILES...")
@click.option("-o", "output", metavar="OUT", help="Where to write the image or clip; - is standard output.")
@click.option("--compare", is_flag=True, help=_COMPARE)
@click.option("--gif", metavar="OUT.gif", help=_GIF)
@click.option("--plot", metavar="OUT.png", help="Of a clip: plot the joint angles; needs daps-tokenizer[motion].")
@encoding_options
@runtime_options
@force_option
@json_option
def reconstruct(
    sources: tuple[str, ...],
    output: str | None,
    compare: bool,
    gif: str | None,
    plot: str | None,
    model: str | None,
    encoding: Encoding,
    runtime: Runtime,
    force: bool,
    as_json: bool,
) -> None:
    """Encode and decode images and motion clips.

    Writes what is left of each to NAME.reconstruction.png or .csv, and says how close that is to what the model saw.
    """
    outputs = Outputs(sources, output, force=force, as_json=as_json)
    pictures = {
        option: Outputs(sources, name, option=option, ending=ending, force=force)
        for option, name, ending in (("--gif", gif, ".gif"), ("--plot", plot, ".png"))
        if name is not None
    }
    if any(picture.to_stdout for picture in pictures.values()):
        raise click.UsageError("--gif and --plot write files; standard output is for the reconstruction.")
    tokenizers = open_tokenizers(sources, model, runtime)

    def work(source: str, progress: Progress) -> Report:
        tokenizer, _ = tokenizers[model or default_model(source)]
        media = media_of(tokenizer.modality)
        unfit = list(pictures) if tokenizer.modality == "image" else ["--compare"] * compare
        if unfit:
            raise click.UsageError(f"{unfit[0]} is not for {media.items}.")
        (file,) = outputs.claim(source, endings=[f".reconstruction{ending}" for ending in media.endings])
        drawn = {option: picture.claim(source)[0] for option, picture in pictures.items()}
        started = time.perf_counter()
        loaded = encoding.load(source, tokenizer)
        encoded = encoding.encode(tokenizer, loaded, progress)
        codes = encoded.codes
        reconstruction, (data,), _ = media.decode(tokenizer, codes, suffix_of(file, media))
        milliseconds = 1e3 * (time.perf_counter() - started)
        original = tokenizer.targets(loaded, **encoding.inputs)
        decoded = [reconstruction[0]]
        if encoded.greedy is not None and (compare or drawn):
            decoded.insert(0, tokenizer.decode(encoded.greedy)[0])
        drawings = {option: _DRAW[option](loaded, decoded) for option in drawn}  # before anything is written
        outputs.write(file, side_by_side([original[0], *decoded], suffix_of(file, media)) if compare else data)
        for option, name in drawn.items():
            pictures[option].write(name, drawings[option])
        quality = media.quality(original, reconstruction)
        line = (
            f"{name_of(source)} -> {', '.join([name_of(file, stream='standard output'), *drawn.values()])}  "
            f"{quality.text}, "
            f"{codes.num_bits} bits, {codes.model}, {milliseconds:.0f} ms{encoded.line}"
        )
        record: dict[str, Any] = {
            "input": source,
            "output": file,
            **{option.removeprefix("--"): name for option, name in drawn.items()},
            "model": codes.model,
            **quality.record,
            "bits": codes.num_bits,
            "milliseconds": milliseconds,
            **encoded.record,
        }
        return Report(line, record)

    for_each(sources, work, as_json=as_json, to_stderr=outputs.to_stdout)
