"""``daps-tokenize dataset``: a folder of images to an array of codes."""

import json
from pathlib import Path

import numpy as np
import pytest

from daps_tokenizer import LocalSearch, Tokenizer
from tests.cli.helpers import digit, refusal, run, run_well

COUNT = 5


def codes(folder: str = "codes") -> np.ndarray:
    return np.load(Path(folder) / "codes.npy")


def test_it_says_what_it_made_and_how_fast(model: str, tok: Tokenizer, images: Path) -> None:
    line = run_well("dataset", images, "-o", "codes", "--model", model).stdout
    assert line.startswith(f"{images} -> codes/codes.npy  5 x 8 codes, uint8, random-mnist, ")
    assert line.rstrip().endswith(" images/s")
    np.testing.assert_array_equal(codes(), tok.encode([digit(seed) for seed in range(COUNT)]).numpy())
    again = run_well("dataset", images, "-o", "codes", "--model", model).stdout
    assert again.rstrip().endswith("was complete already")


def test_programs_get_json(model: str, images: Path) -> None:
    record = json.loads(run_well("dataset", images, "-o", "codes", "--model", model, "--json").stdout)
    assert record.pop("seconds") > 0
    assert record == {
        "output": "codes",
        "model": "random-mnist",
        "shape": [COUNT, 8],
        "type": "uint8",
        "broken": {},
        "done_now": COUNT,
    }


def test_samples_and_searches(model: str, tok: Tokenizer, images: Path) -> None:
    inputs = [digit(seed) for seed in range(COUNT)]
    run_well("dataset", images, "-o", "a", "--model", model, "--samples", 2, "--temperature", 0.5, "--seed", 3)
    np.testing.assert_array_equal(codes("a"), tok.sample(inputs, num_samples=2, temperature=0.5, seed=3).numpy())
    run_well("dataset", images, "-o", "b", "--model", model, "--search", 1, "--limit", 2)
    np.testing.assert_array_equal(codes("b"), tok.encode(inputs[:2], search=LocalSearch(proposals=1)).numpy())


def test_broken_images_are_named_and_the_others_encoded(model: str, images: Path) -> None:
    for number in range(7):
        (images / f"broken-{number}.png").write_text("no image")
    result = run("dataset", images, "-o", "codes", "--model", model)
    assert result.exit_code == 2 and "5 x 8 codes" in result.stdout and len(codes()) == COUNT
    errors = result.stderr.splitlines()
    assert len(errors) == 6 and all(line.startswith(f"error: {images}/broken-") for line in errors[:5])
    assert errors[5] == "error: 2 more, named in codes/dataset.json"
    assert len(json.loads(Path("codes/dataset.json").read_text())["broken"]) == 7


def test_other_codes_are_replaced_with_force_alone(model: str, images: Path) -> None:
    run_well("dataset", images, "-o", "codes", "--model", model)
    said = refusal("dataset", images, "-o", "codes", "--model", model, "--limit", 1)
    assert said == "codes: holds codes that differ in items; pass --force to replace them, or name another"
    run_well("dataset", images, "-o", "codes", "--model", model, "--limit", 1, "--force")
    assert len(codes()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "2", "--search", "1"], "--samples and --search exclude each other"),
        (["--seed", "1"], "--temperature and --seed need --samples; otherwise nothing is drawn"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], message: str, model: str, images: Path
) -> None:
    assert refusal("dataset", images, "-o", "codes", "--model", model, *options).startswith(message)


def test_a_motion_model_is_refused(workplace: Path) -> None:
    said = refusal("dataset", workplace, "-o", "codes", "--model", "daps-h1-motion")
    assert said == "daps-h1-motion is a motion model; dataset is for images, and `daps-tokenize encode` for clips"
