"""Write ``tests/reference/*.json`` and the decoded images next to them, from the built-in models as they are.

Run it only when weights change: a change of code must reproduce what is committed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from daps_tokenizer import Tokenizer
from tests.reference.cases import CASES, SEED, Case, read_decoded

FOLDER = Path(__file__).parent


def write(case: Case) -> None:
    """Encode the case's example, greedy and sampled, and decode the greedy codes."""
    tok = Tokenizer.from_pretrained(case.model)
    greedy = tok.encode(case.example)
    sampled = tok.sample(case.example, seed=SEED)
    decoded = tok.decode(greedy)[0]
    content = {
        "model": case.model,
        "weights_sha256": tok.config.weights_sha256,
        "example": case.example.relative_to(case.example.parents[1]).as_posix(),
        "seed": SEED,
        "greedy": greedy.numpy()[0].tolist(),
        "sampled": sampled.numpy()[0, 0].tolist(),
        "uniform": np.random.default_rng(SEED).random(sampled.shape, dtype=np.float32)[0, 0].tolist(),
        "decoded": case.decoded_file.name,
    }
    case.file.write_text(json.dumps(content) + "\n", encoding="utf-8")
    if tok.modality == "image":
        Image.fromarray(decoded.squeeze()).save(case.decoded_file, optimize=True)
    else:
        case.decoded_file.write_text(json.dumps(decoded.round(6).tolist()) + "\n", encoding="utf-8")
    assert read_decoded(case).shape == decoded.shape


if __name__ == "__main__":
    for case in CASES:
        write(case)
