"""Clips as moving pictures: stick figures side by side, as an animated GIF."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from daps_tokenizer.config import Robot
from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.kinematics import forward_kinematics, rotation_about, split_heading
from daps_tokenizer.motion.resample import resample
from daps_tokenizer.motion.robots import H1

_GIF_FPS = 25.0  # GIF counts in hundredths of a second, which 30 fps do not fit into
_PANEL = (240, 260)  # width and height of a panel, pixels
_FINER = 3  # times as fine as they are shown are figures drawn, for smooth lines
_PIXELS_PER_METRE = 115
_EYE_LEVEL = 0.8  # m above the ground, shown in the middle
_FROM_AHEAD, _FROM_ABOVE = np.radians(-55), np.radians(12)  # the camera's direction, against where the clip heads
_TILE, _TILES = 1.0, 2  # lines on the ground: metres apart, and how many to each side
_COLOURS = {"left": (38, 110, 190), "right": (214, 98, 40), "": (50, 50, 56)}
_GROUND, _SHADOW, _PAPER = (222, 222, 226), (196, 196, 202), (255, 255, 255)
_SHADES = 5


def animate(
    clips: Sequence[np.ndarray], captions: Sequence[str], *, fps: float, robot: Robot = H1, follow_each: bool = False
) -> bytes:
    """Draw clips side by side, seen from one moving camera that follows the first; the others have it as their shadow.

    Args:
        clips: (T, 7 + joints) poses each, of one length.
        captions: what is written above each.
        fps: frames per second of the clips; the GIF has 25 at the same speed.
        robot: whose clips; its height says how large it is drawn.
        follow_each: clips have nothing to do with each other: a camera follows each, and none has a shadow.

    Returns:
        The content of a GIF file that repeats.

    Raises:
        InputError: no clips, or clips of unequal lengths.
    """
    if not clips or len({len(clip) for clip in clips}) != 1:
        raise InputError(f"clips of {[len(clip) for clip in clips]} frames; expected at least one, all of one length")
    played = [resample(np.asarray(clip, np.float64), from_fps=fps, to_fps=_GIF_FPS) for clip in clips]
    heading, _ = split_heading(played[0][0, 3:7])
    camera = rotation_about(0, np.array(_FROM_ABOVE)) @ rotation_about(2, np.array(-heading - _FROM_AHEAD - np.pi / 2))
    eyes = [np.array([[*pose[:2], _EYE_LEVEL] for pose in (clip if follow_each else played[0])]) for clip in played]
    sites = [forward_kinematics(clip, robot).positions for clip in played]

    def draw(t: int) -> Image.Image:
        figures, seen_from = ([each[t] for each in of_clips] for of_clips in (sites, eyes))
        frame = _draw_frame(figures, captions, seen_from, camera, robot, shadow=not follow_each)
        return frame.quantize(palette=_palette(), dither=Image.Dither.NONE)

    buffer = io.BytesIO()
    # Frames are drawn when they are written: all of a long clip at once would take gigabytes.
    others = (draw(t) for t in range(1, len(played[0])))
    draw(0).save(buffer, "GIF", save_all=True, append_images=others, duration=round(1000 / _GIF_FPS), loop=0)
    return buffer.getvalue()


def _palette() -> Image.Image:
    """Every colour that is drawn, and shades between it and the paper for the edges of lines."""
    drawn = [*_COLOURS.values(), _GROUND, _SHADOW]
    shades = [
        tuple(round(paper + (colour - paper) * step / _SHADES) for colour, paper in zip(one, _PAPER, strict=True))
        for one in drawn
        for step in range(1, _SHADES + 1)
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for colour in (_PAPER, *shades) for value in colour])
    return palette


def _draw_frame(
    figures: Sequence[np.ndarray],
    captions: Sequence[str],
    eyes: Sequence[np.ndarray],
    camera: np.ndarray,
    robot: Robot,
    *,
    shadow: bool,
) -> Image.Image:
    """One panel for each figure, its sites (sites, 3), and the place of its camera."""
    width, height = _PANEL
    picture = Image.new("RGB", (width * len(figures), height), _PAPER)
    for number, (figure, caption, eye) in enumerate(zip(figures, captions, eyes, strict=True)):
        panel = Image.new("RGB", (width * _FINER, height * _FINER), _PAPER)
        pen = ImageDraw.Draw(panel)
        _draw_ground(pen, eye, camera)
        if number and shadow:
            _draw_figure(pen, figures[0], eye, camera, robot, shadow=True)
        _draw_figure(pen, figure, eye, camera, robot, shadow=False)
        picture.paste(panel.resize(_PANEL, Image.Resampling.BOX), (number * width, 0))
        ImageDraw.Draw(picture).text((number * width + 8, 6), caption, fill=_COLOURS[""])
    return picture


def _draw_ground(pen: ImageDraw.ImageDraw, eye: np.ndarray, camera: np.ndarray) -> None:
    reach = _TILE * _TILES
    centre = np.round(eye[:2] / _TILE) * _TILE
    for offset in np.linspace(-reach, reach, 2 * _TILES + 1):
        for axis in (0, 1):
            ends = np.zeros((2, 3))
            ends[:, axis] = centre[axis] + offset
            ends[:, 1 - axis] = centre[1 - axis] + np.array([-reach, reach])
            pen.line(_to_screen(ends, eye, camera), fill=_GROUND, width=_FINER)


def _draw_figure(
    pen: ImageDraw.ImageDraw, sites: np.ndarray, eye: np.ndarray, camera: np.ndarray, robot: Robot, *, shadow: bool
) -> None:
    depths = (sites - eye) @ camera.T[:, 1]  # what is farther away is drawn first
    names = robot.site_names
    bones = [(names.index(first), names.index(second)) for first, second in robot.bones]
    for first, second in sorted(bones, key=lambda bone: -(depths[bone[0]] + depths[bone[1]])):
        side = names[second].partition("_")[0]
        colour = _SHADOW if shadow else _COLOURS[side if side in _COLOURS else ""]
        pen.line(_to_screen(sites[[first, second]], eye, camera), fill=colour, width=4 * _FINER, joint="curve")
    if not robot.head:
        return
    (x, y), radius = _to_screen(sites[[names.index(robot.head)]], eye, camera)[0], 8 * _FINER
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_SHADOW if shadow else _COLOURS[""])


def _to_screen(points: np.ndarray, eye: np.ndarray, camera: np.ndarray) -> list[tuple[float, float]]:
    """Points (n, 3) as places in a panel: seen from far away along the camera's y axis."""
    seen = (points - eye) @ camera.T * _PIXELS_PER_METRE * _FINER
    width, height = (size * _FINER for size in _PANEL)
    return [(width / 2 + x, height / 2 - z) for x, _, z in seen.tolist()]
