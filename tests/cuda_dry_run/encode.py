"""What ONNX Runtime's CUDA provider would do to encode and to score; started by run.sh, which explains."""

import sys
from functools import partial
from typing import Any

import numpy as np
import onnxruntime

from daps_tokenizer import Tokenizer
from daps_tokenizer.backends import onnx
from daps_tokenizer.backends.onnx import OnnxBackend
from daps_tokenizer.backends.onnx_captured import CapturedEncoder
from daps_tokenizer.errors import BackendError
from daps_tokenizer.hub import open_model

# Its trial of the GPU decodes, which takes cuDNN, which finds no GPU.
OnnxBackend._try_device = lambda backend: None  # type: ignore[method-assign]


class ContextIfItRuns(CapturedEncoder):
    """Leaves out a context that convolves, which takes more of cuDNN than can be stood in for; it is not captured."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        try:
            self._run_context()
        except RuntimeError:
            print("without its context, which convolves", flush=True)
            self._run_context = lambda: None


onnx.CapturedEncoder = ContextIfItRuns  # type: ignore[misc]


def main(model: str) -> None:
    """In passes, twice, as the first captures; then by steps, which take over where passes do not settle."""
    folder = open_model(model)
    tok = Tokenizer(folder, OnnxBackend.open(folder, device="cuda"))
    print(f"== {model}: {tok.backend_info}", flush=True)
    images = np.zeros((3, *tok.input_shape), np.uint8 if tok.config.modality == "image" else np.float32)
    for _ in range(2):
        codes = tok.encode(images)
    try:
        tok.log_prob(images, codes)
    except BackendError:
        print("not scored, as the scorer convolves", flush=True)
    if around := tok.config.recognition.surroundings:
        print("with surroundings:", flush=True)
        surrounded = np.pad(images, ((0, 0), (around, around), (around, around), (0, 0)))
        for _ in range(2):
            tok._backend.encode(surrounded, np.zeros(codes.shape, np.float32), 0.0)
    print("by steps:", flush=True)
    session = partial(tok._backend._session, num_threads=1)  # type: ignore[attr-defined]
    steps = ContextIfItRuns(session, tok.config, images.shape, device="cuda", number=2, max_passes=0)
    steps.run(images, np.zeros(codes.shape, np.float32), 0.0)
    print(f"encoded, {codes.shape} codes", flush=True)


if __name__ == "__main__":
    onnxruntime.set_default_logger_severity(3)
    main(sys.argv[1])
