"""What the README shows is what happens."""

import re
import shutil
from pathlib import Path

import pytest

from tests.paths import ROOT

README = ROOT / "README.md"
PHOTOGRAPHS = README.parent / "docs" / "photographs.md"


@pytest.mark.parametrize("page", [README, PHOTOGRAPHS], ids=lambda page: page.stem)
def test_the_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(README.parent / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)


@pytest.mark.parametrize("page", [README, PHOTOGRAPHS], ids=lambda page: page.stem)
def test_every_file_it_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]
    assert links and not missing
