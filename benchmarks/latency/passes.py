"""How many passes over its positions ``encoder.onnx`` makes of each window."""

from __future__ import annotations

import numpy as np

from daps_tokenizer.backends.batching import encode_chunk, slices
from daps_tokenizer.hub import ModelFolder


def count_passes(folder: ModelFolder, inputs: np.ndarray, *, temperature: float) -> np.ndarray | None:
    """Encode on one thread, as many items together as the ONNX backend takes, and return the passes of each window.

    Args:
        folder: a model folder.
        inputs: uint8 images (B, height, width, C) or float32 features (B, frames, features).
        temperature: 0 is greedy.

    Returns:
        (B, W) float32, see :mod:`export.encoder`; None for a graph of one pass.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    folder.file("onnx/weights.bin")  # next to the graph, which refers to it
    path = folder.file("onnx/encoder.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    if "passes" not in {output.name for output in session.get_outputs()}:
        return None
    uniform = np.random.default_rng(0).random((len(inputs), folder.config.num_tokens), dtype=np.float32)
    name = "images" if folder.config.modality == "image" else "features"
    fixed = {"temperature": np.array(temperature, np.float32)}
    return np.concatenate(
        [
            session.run(["passes"], fixed | {name: inputs[rows], "uniform": uniform[rows]})[0]
            for rows in slices(len(inputs), encode_chunk(folder.config))
        ]
    )
