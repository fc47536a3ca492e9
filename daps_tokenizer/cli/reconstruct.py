"""``daps-tokenize reconstruct``: images and clips after encoding and decoding, to look at and in numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np

from daps_tokenizer.cli.common import Progress, Report, for_each
from daps_tokenizer.cli.encoding import Encoding, encoding_options
from daps_tokenizer.cli.media import media_of, open_tokenizers, picture_of, suffix_of
from daps_tokenizer.cli.options import Runtime, force_option, json_option, runtime_options
from daps_tokenizer.cli.outputs import Outputs
from daps_tokenizer.cli.sources import default_model, name_of
from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.motion.draw import animate
from daps_tokenizer.motion.plot import plot_joints

_OUTPUT = "Where to write the image or clip: a file, a folder that ends with /, or - for standard output."
_COMPARE = (
    "Write the original, as the model sees it, to the left of the reconstruction; with --search, the reconstruction "
    "from greedy codes is between the two."
)
_GIF = "Draw original and reconstruction of a clip as stick figures; with --search, greedy codes are between the two."
_PLOT = "Plot the joint angles of a clip; needs matplotlib, which the extra `motion` installs."


def _gif(clip: Clip, decoded: list[np.ndarray]) -> bytes:
    captions = ["original", *["greedy codes"] * (len(decoded) - 1), "reconstruction"]
    return animate([clip.qpos, *decoded], captions, fps=clip.fps, robot=clip.robot)


def _plot(clip: Clip, decoded: list[np.ndarray]) -> bytes:
    return plot_joints(clip.qpos, decoded[-1], fps=clip.fps, robot=clip.robot)


_DRAW: dict[str, Callable[[Clip, list[np.ndarray]], bytes]] = {"--gif": _gif, "--plot": _plot}


@click.command("reconstruct")
@click.argument("sources", nargs=-1, required=True, metavar="FILES...")
@click.option("-o", "output", metavar="OUT", help=_OUTPUT)
@click.option("--compare", is_flag=True, help=_COMPARE)
@click.option("--gif", metavar="OUT.gif", help=_GIF)
@click.option("--plot", metavar="OUT.png", help=_PLOT)
@encoding_options
@runtime_options
@force_option
@json_option
def command(
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

    Each reconstruction is written to NAME.reconstruction.png or .csv, and the line says how close it is to what the
    model saw.
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
        tokenizer = tokenizers[model or default_model(source)]
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
        decoded = [reconstruction[0]]
        if encoded.greedy is not None and (compare or drawn):
            decoded.insert(0, tokenizer.decode(encoded.greedy)[0])
        drawings = {option: _DRAW[option](loaded.inputs, decoded) for option in drawn}  # before anything is written
        if compare:
            panels = np.stack([loaded.targets[0], *decoded])
            data = picture_of(panels, len(panels), suffix_of(file, media))
        outputs.write(file, data)
        for option, name in drawn.items():
            pictures[option].write(name, drawings[option])
        quality = media.quality(loaded.targets, reconstruction)
        assumed = f", {loaded.assumed}" if loaded.assumed else ""
        line = (
            f"{name_of(source)} -> {', '.join([name_of(file, stream='standard output'), *drawn.values()])}  "
            f"{quality.text}{assumed}, {encoded.bits}, {codes.model}, {milliseconds:.0f} ms{encoded.line}"
        )
        record: dict[str, Any] = {
            "input": source,
            "output": file,
            **{option.removeprefix("--"): name for option, name in drawn.items()},
            "model": codes.model,
            **quality.record,
            "milliseconds": milliseconds,
            **encoded.record,
        }
        return Report(line, record)

    for_each(sources, work, as_json=as_json, to_stderr=outputs.to_stdout)
