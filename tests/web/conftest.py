"""JavaScript that Python asks: a script in Node, with its inputs and its answer as files."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.paths import ROOT

WEB = ROOT / "web"
Ask = Callable[..., Any]

_START = """
import * as ort from "{web}/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import * as daps from "{web}/daps.js";
import * as motion from "{web}/motion.js";
import {{ readFileSync, writeFileSync }} from "node:fs";
ort.env.wasm.numThreads = 1;
const given = JSON.parse(readFileSync("given.json", "utf-8"));
const bytes = (name) => new Uint8Array(readFileSync(name));
const floats = (name) => new Float32Array(bytes(name).buffer);
const messageOf = (work) => {{
  try {{
    work();
  }} catch (error) {{
    return error instanceof daps.DapsError ? error.message : `not typed: ${{error}}`;
  }}
  return null;
}};
"""


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Run a script that assigns ``answer``; arrays among the inputs become files of the same name, others ``given``."""
    if shutil.which("node") is None or not (WEB / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("needs node, and `npm ci` in web/")

    def run(script: str, **inputs: Any) -> Any:
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                value.tofile(tmp_path / name)
        plain = {name: value for name, value in inputs.items() if not isinstance(value, np.ndarray)}
        (tmp_path / "given.json").write_text(json.dumps(plain), encoding="utf-8")
        end = '\nwriteFileSync("answer.json", JSON.stringify(answer));'
        (tmp_path / "script.mjs").write_text(_START.format(web=WEB) + script + end, encoding="utf-8")
        done = subprocess.run(["node", "script.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))

    return run
