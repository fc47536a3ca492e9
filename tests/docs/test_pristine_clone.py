"""The README's commands for training, in a fresh clone: nothing that they need is only in a developer's checkout."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.paths import ROOT

BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
LINES = next(block for block in BLOCKS if "train chain" in block).splitlines()
# Without pip and the download, which need a network.
RUN = [shlex.split(line, comments=True) for line in LINES if not line.startswith(("pip ", "python -m train data"))]
TINY = ["--quiet", "--set=steps=2", "--set=batch_size=4", "--set=evaluation_items=2"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine") / "daps-tokenizer"
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of datasets with a CIFAR-10 of noise: 2,000 images to train on and 1,000 to test on."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "cifar10").mkdir()
    for split, mosaics in (("train", 2), ("test", 1)):
        for number in range(mosaics):
            pixels = np.random.default_rng(number).integers(0, 256, (800, 1280, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "cifar10" / f"{split}_{number:02}.webp", lossless=True)
        np.save(folder / "cifar10" / f"{split}_labels.npy", np.zeros(1000 * mosaics, np.int64))
    return folder


@pytest.mark.slow
def test_the_readmes_training_commands_run_in_a_fresh_clone(clone: Path, cifar10: Path) -> None:
    assert len(RUN) == 3 and not (clone / "runs").exists()
    for words in RUN:
        module = words[1:] if words[0] == "python" else ["-m", "daps_tokenizer", *words[1:]]
        finished = subprocess.run(
            [sys.executable, *module, *(TINY if "chain" in words else [])],
            cwd=clone,
            env=os.environ | {"PYTHONPATH": str(clone), "DAPS_DATA": str(cifar10), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, f"{shlex.join(words)}: {finished.stderr}"
    assert (clone / "my-model" / "onnx" / "encoder.onnx").is_file()
    status = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    assert "runs/" not in status.stdout  # what a run leaves is ignored
