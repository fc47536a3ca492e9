"""The example that trains a generative model on codes: it learns, looks at earlier codes alone, and draws a picture."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from daps_tokenizer import Tokenizer
from daps_tokenizer.data.code_set_writer import write_code_set
from daps_tokenizer.data.datasets import ArrayData
from daps_tokenizer.errors import CodesFileError, InputError, OutputExistsError
from daps_tokenizer.ways import Sampled
from tests.motion.test_motion_examples import example
from tests.test_tokenizer import digits

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model(random_mnist_folder: Path) -> str:
    return str(random_mnist_folder)


def write_codes(model: str, folder: Path, *, samples: int | None = None) -> str:
    """Codes of twelve digits of three classes."""
    tok = Tokenizer.from_pretrained(model)
    data = ArrayData(digits(12), "digits", labels=np.arange(12) % 3)
    way = None if samples is None else Sampled(samples)
    write_code_set(tok, data, folder, way)
    return str(folder)


@pytest.mark.parametrize("samples", [None, 2])
def test_codes_of_a_dataset_become_a_picture_of_new_ones(model: str, samples: int | None, tmp_path: Path) -> None:
    codes = write_codes(model, tmp_path / "codes", samples=samples)
    options = ["--steps", "2", "--batch", "5", "--each", "4", "--model", model, "-o", str(tmp_path / "new.png")]
    example("generate").main([codes, *options])
    with Image.open(tmp_path / "new.png") as picture:
        assert picture.size == (4 * 28, 3 * 28) and picture.mode == "L"
    with pytest.raises(OutputExistsError):
        example("generate").main([codes, *options])


def test_what_is_not_there_is_said(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CodesFileError, match="none: holds no codes; expected a folder that `daps-tokenize dataset`"):
        example("generate").main([str(tmp_path / "none"), "-o", str(tmp_path / "new.png")])
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device cuda: PyTorch finds no GPU here; use --device cpu"):
            example("generate").main(["codes", "--device", "cuda", "-o", str(tmp_path / "new.png")])
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as exited:
        example("generate")
    assert str(exited.value).startswith(
        "error: this example needs PyTorch, which is not installed; install it with pip"
    )


def test_a_code_is_predicted_from_those_before_it_alone() -> None:
    torch.manual_seed(0)
    prior = example("generate").Prior(num_tokens=6, vocab_size=10, num_classes=2).eval()
    codes, labels = torch.randint(10, (1, 6)), torch.tensor([1])
    changed = codes.clone()
    changed[0, 3] = (codes[0, 3] + 1) % 10
    with torch.no_grad():
        before, after = prior(codes, labels), prior(changed, labels)
        assert before.shape == (1, 6, 10)
        torch.testing.assert_close(before[:, :4], after[:, :4])
        assert (before[:, 4:] - after[:, 4:]).abs().min() > 0
        torch.testing.assert_close(prior(codes[:, :2], labels), before[:, :3])


def test_it_learns_codes_that_depend_on_their_class() -> None:
    torch.manual_seed(0)
    module = example("generate")
    prior = module.Prior(num_tokens=4, vocab_size=8, num_classes=2, hidden_size=64)
    labels = torch.arange(2).repeat(50)
    codes = labels[:, None] * 5 + torch.arange(4) % 3
    module.train(prior, codes, labels, steps=100)
    drawn = module.generate(prior.eval(), torch.tensor([0, 1]))
    assert drawn.tolist() == [[0, 1, 2, 0], [5, 6, 7, 5]]
