"""docs/training.md: its commands run, in order, on a small folder of real images, and it names every setting."""

import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click import Command
from click.testing import CliRunner
from PIL import Image

from daps_tokenizer.cli.main import main as daps_tokenize
from export.__main__ import main as export
from tests.paths import EXAMPLES, ROOT
from train.__main__ import main as train
from train.experiment import Experiment, load_experiment, open_dataset
from train.motion import MotionAugmentation
from train.optimisation import PARTS, OptimiserConfig
from train.photos import PhotosConfig

PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
]
TINY = ["--quiet", *(f"--set={key}" for key in ("steps=2", "batch_size=4", "evaluation_items=2", "data.workers=0"))]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The folder that the page begins with: parts of real photographs, and one photograph in the current folder."""
    folder = tmp_path / "my-images"
    folder.mkdir()
    for name in ("coffee.webp", "astronaut.webp"):
        with Image.open(EXAMPLES / name) as photo:
            for number in range(6):
                left = 20 * number
                photo.convert("RGB").crop((left, left, left + 96, left + 80)).save(folder / f"{name}-{number}.png")
    shutil.copy(EXAMPLES / "cat.png", tmp_path / "photo.png")
    return folder


def run(command: list[str]) -> str:
    program, *arguments = command
    if program == "torchrun":
        finished = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", *arguments, *TINY],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout + finished.stderr
    main: Command = daps_tokenize
    if program == "python":
        main, arguments = {"train": train, "export": export}[arguments[1]], arguments[2:]
        arguments += TINY if arguments[0] in ("fit", "chain") else []
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, f"{command}: {result.output}"
    return result.output


def make_small(model: Path) -> None:
    """The same networks with narrow layers, so that the test is fast."""
    text = re.sub(r"(hidden|embedding)_size: \d+", r"\1_size: 16", model.read_text(encoding="utf-8"))
    model.write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_every_command_of_the_page_runs(images: Path) -> None:
    assert len(COMMANDS) == 10
    output: dict[str, str] = {}
    with contextlib.chdir(images.parent):
        for command in COMMANDS:
            output[" ".join(command)] = run(command)
            if "init" in command:
                make_small(Path("my-images-64/model.yaml"))
    left = {path.name for path in images.parent.iterdir()}
    assert {"my-images-64", "my-model", "photo.daps", "photo.decoded.png", "runs"} <= left
    assert {path.name for path in (images.parent / "runs").iterdir()} == {
        "my-images-64-vqvae",
        "my-images-64-daps",
        "try",
        "two",
    }
    assert "greedy codes equal" in output["python -m export check my-model"]
    assert "two: 2 processes, each on CPU" in next(found for command, found in output.items() if "torchrun" in command)
    card = (images.parent / "my-model" / "README.md").read_text()
    assert "model_name: my-images-64" in card and "license" not in card


def test_the_least_experiment_of_the_page_is_valid_and_finds_its_images(images: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    with contextlib.chdir(images.parent):
        run(COMMANDS[0])
        Path("mine.yaml").write_text(block)
        experiment = load_experiment(Path("mine.yaml"))
        assert (len(open_dataset(experiment).train), len(open_dataset(experiment).test)) == (10, 2)


def test_the_page_names_every_setting() -> None:
    settings = {
        field.name for kind in (Experiment, PhotosConfig, OptimiserConfig) for field in dataclasses.fields(kind)
    }
    settings |= {field.name for field in dataclasses.fields(MotionAugmentation)} | set(PARTS)
    assert [name for name in sorted(settings) if f"`{name}`" not in PAGE] == []
