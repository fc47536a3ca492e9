"""References that come from codes: clips through a tokenizer, single windows, and the codes that a policy sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.studies.control.reference import CLIP_FPS, Reference
from benchmarks.studies.control.robot import CONTROL_FPS, Robot
from daps_tokenizer import Clip, Codes, Tokenizer
from daps_tokenizer.hub import open_model
from daps_tokenizer.motion.kinematics import heading_quaternion, multiply_quaternions, rotation_about, split_heading


def lowered(robot: Robot, clip: np.ndarray) -> np.ndarray:
    """A clip (T, 36) at the height at which its feet touch the floor; see :class:`Reference`."""
    moved = clip.copy()
    moved[:, 2] += Reference.from_clips(robot, [clip]).qpos[0, 2] - clip[0, 2]
    return moved


def encode_clips(tokenizer: Tokenizer, clips: Sequence[np.ndarray]) -> list[Codes]:
    """Codes (1, windows, N) of each clip (T, 36), quaternions x y z w, 30 fps."""
    return [tokenizer.encode(Clip(clip, CLIP_FPS)) for clip in clips]


def coded_reference(
    tokenizer: Tokenizer, robot: Robot, codes: Sequence[Codes]
) -> tuple[Reference, np.ndarray, np.ndarray]:
    """What codes (1, windows, N) of clips decode to, all codes (W, N), and the place of each frame in them, (T,): its
    window and the share of the window that is over."""
    decoded = [tokenizer.decode_to_clips(each)[0].qpos for each in codes]
    reference = Reference.from_clips(robot, decoded, on_floor=False)
    length, places, window = tokenizer.config.input_shape[0], [], 0
    for each, frames in zip(codes, np.diff(reference.clip_starts), strict=True):
        count = each.numpy().shape[1]
        seconds = np.arange(frames) / CONTROL_FPS
        places.append(window + np.minimum(seconds * CLIP_FPS / length, count - 1e-3))
        window += count
    return reference, np.concatenate([each.numpy()[0] for each in codes]), np.concatenate(places)


def code_vectors(tokenizer: Tokenizer, model: str) -> Tensor:
    """The generative model's vector of each code at each position, standardised: (N, V, E)."""
    config, table = (
        tokenizer.config,
        load_file(open_model(model).file("model.safetensors"))["generative.embedding.weight"],
    )
    if config.generative.kind == "spectral":  # each position has columns of its own
        vectors = table.unflatten(1, (config.num_tokens, -1)).transpose(0, 1)
    else:
        vectors = table.expand(config.num_tokens, *table.shape)
    return ((vectors - vectors.mean(1, keepdim=True)) / (vectors.std(1, keepdim=True) + 1e-6)).contiguous()


def placed(poses: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Windows (K, T, 36) from the origin, moved and turned so that each begins at a pose's (36,) place and heading."""
    heading, _ = split_heading(start[3:7])
    first, _ = split_heading(poses[:, 0, 3:7])
    turn = heading - first
    moved = poses.copy()
    moved[..., :2] -= poses[:, :1, :2]
    moved[..., :3] = np.einsum("kij,ktj->kti", rotation_about(2, turn), moved[..., :3])
    moved[..., :2] += start[:2]
    moved[..., 3:7] = multiply_quaternions(heading_quaternion(turn)[:, None], poses[..., 3:7])
    return moved
