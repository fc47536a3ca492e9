"""Reports of benchmarks as files."""

import json
from pathlib import Path

import pytest

from benchmarks.markdown import write_report


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
