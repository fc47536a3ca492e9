"""Joint angles over time, of a clip and of its reconstruction."""

from __future__ import annotations

import io

import numpy as np

from daps_tokenizer.config import Robot
from daps_tokenizer.errors import BackendError
from daps_tokenizer.install import install_command
from daps_tokenizer.motion.robots import H1

_COLUMNS = 4


def plot_joints(original: np.ndarray, reconstruction: np.ndarray, *, fps: float, robot: Robot = H1) -> bytes:
    """Draw every joint angle and the height of the root.

    Args:
        original, reconstruction: (T, 7 + joints) poses.
        fps: frames per second.
        robot: whose poses.

    Returns:
        The content of a PNG file.

    Raises:
        BackendError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise BackendError(
            f"plotting needs matplotlib, which is not installed; install it with {install_command('motion')}"
        ) from error
    time = np.arange(len(original)) / fps
    rows = -(-(len(robot.joints) + 1) // _COLUMNS)
    figure = Figure(figsize=(4 * _COLUMNS, 2.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, _COLUMNS, sharex=True).ravel()
    for number, joint in enumerate(robot.joints):
        panel = axes[number]
        panel.plot(time, np.degrees(original[:, 7 + number]), color="0.65", linewidth=2.5, label="original")
        panel.plot(time, np.degrees(reconstruction[:, 7 + number]), color="C0", linewidth=1.2, label="reconstruction")
        low, high = panel.get_ylim()
        for limit in np.degrees(joint.limits):
            if low < limit < high:
                panel.axhline(limit, color="C3", linewidth=0.6)
        panel.set_title(f"{joint.name.replace('_', ' ')}, degrees", fontsize=9)
    height = axes[len(robot.joints)]
    height.plot(time, original[:, 2], color="0.65", linewidth=2.5, label="original")
    height.plot(time, reconstruction[:, 2], color="C0", linewidth=1.2, label="reconstruction")
    height.set_title("root height, m", fontsize=9)
    height.legend(fontsize=8)
    for panel in axes[-_COLUMNS:]:
        panel.set_xlabel("seconds", fontsize=8)
    for panel in axes:
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()
