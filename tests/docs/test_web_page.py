"""docs/web.md: its JavaScript example runs, and has Python's codes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from daps_tokenizer import Tokenizer
from tests.paths import EXAMPLES, ROOT
from tests.reference.cases import CASES, read_reference

PAGE = (ROOT / "docs" / "web.md").read_text(encoding="utf-8")


def test_the_javascript_example_has_the_codes_and_the_sample_of_the_reference(tmp_path: Path) -> None:
    modules = ROOT / "web" / "node_modules"
    if not (modules / "onnxruntime-web").is_dir() or shutil.which("node") is None:
        pytest.skip("needs node, and `npm ci` in web/")
    for name, target in (("daps_tokenizer", ROOT / "daps_tokenizer"), ("node_modules", modules), ("web", ROOT / "web")):
        (tmp_path / name).symlink_to(target)
    tok = Tokenizer.from_pretrained("daps-photo-256", backend="onnx", device="cpu")
    tok.targets(EXAMPLES / "cat.png").tofile(tmp_path / "cat.rgb")
    (tmp_path / "example.mjs").write_text(re.findall(r"```js\n(.*?)```", PAGE, flags=re.DOTALL)[0], encoding="utf-8")
    printed = subprocess.run(["node", "example.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(printed.stdout)
    reference = read_reference(CASES[0])
    assert found["codes"] == reference["greedy"] and found["sample"] == reference["sampled"]
    decoded = tok.decode(np.array([reference["greedy"]]))
    assert np.abs(np.array(found["values"]) - decoded.ravel().astype(int)).max() <= 1
    assert found["likely"][0]["code"] == reference["greedy"][400] and len(found["likely"]) == 5


def test_the_page_names_only_functions_that_are_there() -> None:
    texts = [(ROOT / "web" / file).read_text(encoding="utf-8") for file in ("daps.js", "motion.js")]
    exported = set(re.findall(r"^export (?:async )?(?:function|const|class) (\w+)", "\n".join(texts), re.M))
    section = PAGE.split("## daps.js")[1].split("## Safety")[0].split("```")[-1]
    assert set(re.findall(r"`([a-z]\w+)`", section)) <= exported | {"site.json"}
