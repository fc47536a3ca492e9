"""Draw variations of a motion: other codes that the model finds probable for the same clip, decoded and drawn.

    python examples/motion_variations.py examples/walk.csv --temperature 1.0 --gif variations.gif

Each variation is written as a CSV file next to the GIF. At temperature 0 all of them are the most probable codes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from daps_tokenizer import Clip, Tokenizer
from daps_tokenizer.errors import DapsError, OutputExistsError
from daps_tokenizer.files import write_bytes_atomically
from daps_tokenizer.motion.draw import animate


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Draw variations of a motion.")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--model", default="daps-h1-motion")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gif", type=Path, default=Path("variations.gif"))
    chosen = parser.parse_args(arguments)
    files = [chosen.gif.with_name(f"{chosen.gif.stem}-{number}.csv") for number in range(1, chosen.count + 1)]
    for file in (chosen.gif, *files):
        if file.exists():
            raise OutputExistsError(f"{file} already exists; name another GIF with --gif, and its CSV files with it")

    tokenizer = Tokenizer.from_pretrained(chosen.model)
    clip = Clip.load(chosen.clip)
    # A window forgets how the one before it ended; with an overlap, one fades into the next.
    codes = tokenizer.sample(
        clip, num_samples=chosen.count, temperature=chosen.temperature, seed=chosen.seed, overlap=8
    )
    variations = tokenizer.decode_to_clips(codes)
    log_q = tokenizer.log_prob(clip, codes, overlap=8)[0]
    for file, variation, nats in zip(files, variations, log_q, strict=True):
        variation.save(file, overwrite=False)
        difference = np.degrees(np.abs(variation.qpos[:, 7:] - clip.qpos[:, 7:]).mean())
        print(f"{file}: log q(z|x) {nats:.1f} nats, joints {difference:.2f} degrees from the original")
    poses = [clip.qpos, *(variation.qpos for variation in variations)]
    captions = ["original", *(f"variation {number}" for number in range(1, len(poses)))]
    write_bytes_atomically(chosen.gif, animate(poses, captions, fps=clip.fps), overwrite=False)
    print(chosen.gif)


if __name__ == "__main__":
    try:
        main()
    except DapsError as error:
        sys.exit(f"error: {error}")
