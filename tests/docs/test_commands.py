"""The commands that the pages for users show work as they are printed, in a folder with nothing but examples/ in it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.helpers import ENVIRONMENT
from tests.paths import ROOT

PYTHON = sys.executable
SHELL = f'daps-tokenize() {{ {PYTHON} -m daps_tokenizer "$@"; }}; python() {{ {PYTHON} "$@"; }}; set -e\n'
BLOCKS = [("start", 0), ("start", 1), ("cli", 0), ("data", -1), ("generate", 0), ("motion", 0)]
# Not of a folder with examples alone: pip, a data set that is not in the repository, and what needs another package.
ELSEWHERE = ("pip install", "daps-tokenize evaluate daps-g1-motion lafan1_g1.npz")


@pytest.mark.slow
@pytest.mark.parametrize(("page", "number"), BLOCKS)
def test_a_block_of_commands_runs(page: str, number: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="what `reconstruct --plot` needs is not installed")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(ROOT / "examples" / "walk.csv", tmp_path)
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    commands = [line for line in blocks[number].splitlines() if not line.startswith(ELSEWHERE)]
    script = SHELL + "\n".join(commands)
    finished = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
