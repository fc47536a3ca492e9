"""What docs/motion.md shows is what happens."""

import re
import shutil
from pathlib import Path

import pytest

from daps_tokenizer import hub as hub_module
from tests.paths import ROOT


def test_the_python_examples_run(random_motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pretrained").mkdir()
    shutil.copytree(random_motion_folder, tmp_path / "pretrained" / "daps-h1-motion")
    monkeypatch.setattr(hub_module, "_BUILT_IN_FOLDER", tmp_path / "pretrained")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "motion.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "again.csv").is_file()


def test_every_file_it_names_is_there() -> None:
    text = (ROOT / "docs" / "motion.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:examples|daps_tokenizer|docs)/[\w./]+\.\w+)`", text)
    assert named and not [name for name in named if not (ROOT / name).is_file()]
