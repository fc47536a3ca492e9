"""Reports of benchmarks as files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import COMMANDS, main
from benchmarks.reports import write_report
from tests.paths import ROOT


def test_a_report_is_json_and_markdown_and_a_picture_where_there_is_one(tmp_path: Path) -> None:
    paths = write_report(tmp_path / "results", "speed", {"rows": [1.5]}, "# Speed – ours\n", b"\x89PNG")
    assert [path.name for path in paths] == ["speed.json", "speed.md", "speed.png"]
    assert json.loads(paths[0].read_text(encoding="utf-8")) == {"rows": [1.5]}
    assert [path.read_bytes() for path in paths[1:]] == ["# Speed – ours\n".encode(), b"\x89PNG"]
    assert [path.name for path in write_report(tmp_path, "speed", [], "# Speed\n")] == ["speed.json", "speed.md"]


def test_a_report_that_cannot_be_made_leaves_the_earlier_one(tmp_path: Path) -> None:
    paths = write_report(tmp_path, "speed", {"rows": [1.5]}, "# Speed\n")
    before = [path.read_bytes() for path in paths]
    with pytest.raises(TypeError):
        write_report(tmp_path, "speed", {"rows": [object()]}, "# Another\n")
    assert sorted(tmp_path.iterdir()) == sorted(paths) and [path.read_bytes() for path in paths] == before


def test_commands_are_imported_when_they_are_called() -> None:
    script = (
        "import sys, benchmarks.__main__; print(*sorted({'torch', 'onnxruntime', 'matplotlib'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_the_list_says_and_has_a_sentence_of_help(name: str) -> None:
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0 and shown.output.startswith("Usage:") and ".\n" in shown.output
