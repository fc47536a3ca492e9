"""docs/onnx.md: its examples run, and what it says of graphs and files is what they are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from daps_tokenizer import Tokenizer
from tests.paths import EXAMPLES, ROOT

PAGE = (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8")
FOLDER = ROOT / "daps_tokenizer" / "pretrained" / "daps-photo-256"
GRAPHS = ("encoder", "decoder", "scorer", "likelihood")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the repository's root to the examples, which write next to what is there."""
    folder = tmp_path_factory.mktemp("root")
    for name in ("daps_tokenizer", "examples"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def ran(work: Path) -> dict[str, Any]:
    """The names that the Python examples leave."""
    names: dict[str, Any] = {}
    before = Path.cwd()
    os.chdir(work)
    try:
        for block in blocks("python"):
            exec(block, names)
    finally:
        os.chdir(before)
    return names


@pytest.fixture(scope="module")
def tok() -> Tokenizer:
    return Tokenizer.from_pretrained("daps-photo-256", backend="onnx", device="cpu")


def test_the_python_example_has_the_codes_of_the_tokenizer_and_its_pixels(ran: dict[str, Any], tok: Tokenizer) -> None:
    codes = tok.encode(EXAMPLES / "cat.png")
    assert np.array_equal(ran["codes"], codes.numpy())
    assert np.abs(ran["reconstruction"].astype(int) - tok.decode(codes)).max() <= 1
    assert ran["log_probs"].sum() == pytest.approx(float(tok.log_prob(EXAMPLES / "cat.png", codes)[0]), rel=1e-4)


def test_the_javascript_example_has_the_codes_of_python(ran: dict[str, Any], work: Path) -> None:
    found = ROOT / "web" / "node_modules"
    if not (found / "onnxruntime-web").is_dir() or shutil.which("node") is None:
        pytest.skip("needs node, and `npm ci` in web/")
    (work / "node_modules").symlink_to(found)
    (work / "example.mjs").write_text(blocks("js")[0], encoding="utf-8")
    printed = subprocess.run(["node", "example.mjs"], cwd=work, capture_output=True, text=True, check=True)
    found_there = json.loads(printed.stdout)
    assert found_there["codes"] == ran["codes"].ravel().tolist()
    assert np.abs(np.array(found_there["pixels"]) - ran["reconstruction"].ravel()).max() <= 1


@pytest.mark.parametrize("name", GRAPHS)
def test_the_table_names_the_inputs_and_outputs_of_each_graph_and_their_types(name: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}.onnx`"))
    _, _, inputs, outputs, _ = (cell.strip() for cell in row.split("|"))
    graph = onnx.load(FOLDER / "onnx" / f"{name}.onnx", load_external_data=False).graph
    for cell, values in ((inputs, graph.input), (outputs, graph.output)):
        assert re.findall(r"`(\w+)`", cell.removesuffix(", in the shape of `codes`")) == [
            value.name for value in values
        ]
        for value in values:
            kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            axes = len(value.type.tensor_type.shape.dim)
            stated = re.search(rf"`{value.name}` (\w+)(?: \(([^)]*)\))?", cell)
            if stated is not None:
                assert stated[1] == str(kind)
                assert stated[2] is None or len([axis for axis in stated[2].split(",") if axis]) == axes


def test_the_opsets_are_those_it_says() -> None:
    for path in (FOLDER / "onnx").glob("*.onnx"):
        graph = onnx.load(path, load_external_data=False)
        older = path.stem in ("encoder_context", "encoder_pass", "encoder_step")
        assert [entry.version for entry in graph.opset_import if not entry.domain] == [20 if older else 23]
        assert graph.ir_version == 10


@pytest.mark.parametrize("fit", ["crop", "tile"])
def test_the_reader_of_daps_files_reads_what_the_package_writes(
    ran: dict[str, Any], tok: Tokenizer, fit: str, tmp_path: Path
) -> None:
    codes = tok.encode(EXAMPLES / "cat.png", fit=fit)
    codes.save(tmp_path / "cat.daps")
    values, header = ran["read_daps"](tmp_path / "cat.daps")
    assert np.array_equal(values, codes.numpy())
    assert list(header) == ["model", "weights_sha256", "vocab_size", "shape", "layout"]
    assert header["model"] == "daps-photo-256" and header["weights_sha256"] == codes.weights_sha256
