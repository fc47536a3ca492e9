"""The report of GPU sessions: what was measured, the goals, and "not measured" wherever nothing was."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.report import PARTS, read_measured, write_gpu
from daps_tokenizer.errors import InputError

MACHINE = {"date": "2026-01-01", "processor": "any"}


def session(folder: Path, **parts: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    for part, rows in parts.items():
        (folder / f"{part}.json").write_text(json.dumps({"command": "", "machine": MACHINE, "rows": rows}))
    return folder


def call(
    batch: int, ms: float, *, action: str = "encode", backend: str = "torch", dtype: str = "float32"
) -> dict[str, Any]:
    common = {"model": "daps-photo-256", "backend": backend, "dtype": dtype, "info": "torch 2 on NVIDIA Any, float32"}
    return common | {"action": action, "batch": batch, "median_ms": ms, "items_per_second": 1e3 * batch / ms}


def told(out: Path, *paths: Path) -> str:
    write_gpu(out, read_measured(paths), "python -m benchmarks gpu", "")
    assert (out / "gpu.png").stat().st_size > 1000 and set(PARTS) <= json.loads((out / "gpu.json").read_text()).keys()
    return (out / "gpu.md").read_text()


def test_goals_are_met_by_the_best_precision(tmp_path: Path) -> None:
    calls = [
        call(1, 4.0),
        call(1, 2.5, dtype="bfloat16"),
        call(64, 16.0),
        call(256, 32.0),
        call(64, 8.0, action="decode"),
    ]
    text = told(tmp_path, session(tmp_path / "results", calls=calls, onnx=[call(64, 24.0, backend="onnx")]))
    assert "GPU: NVIDIA Any." in text
    assert "| encode one photograph | under 3 ms | 2.5 ms (bfloat16, batches of 1) |" in text
    assert "| encode photographs in batches | 5,000 a second | 8,000 a second (float32, batches of 256) |" in text
    assert "| decode photographs in batches | 5,000 a second | 8,000 a second (float32, batches of 64) |" in text
    assert "within 2× of torch's time | 1.5× |" in text
    assert "| encode | 64 | 16.0 (4,000) | not measured | not measured | 24.0 (2,667) |" in text


def test_what_failed_or_was_not_tried_is_not_measured(tmp_path: Path) -> None:
    failed = {"model": "daps-photo-256", "backend": "tensorrt", "device": "cuda", "dtype": "float16", "reason": "none"}
    text = told(tmp_path, session(tmp_path / "results", parity=[failed]))
    assert "| encode one photograph | under 3 ms | not measured |" in text
    assert "| daps-photo-256 | tensorrt | cuda | float16 | not measured | not measured | not measured |" in text
    assert "Training steps:\n\nnot measured." in text


def test_of_a_part_that_several_sessions_have_the_last_counts(tmp_path: Path) -> None:
    both = tmp_path / "both.json"
    both.write_text(json.dumps({"machine": MACHINE, "drawing": [], "calls": [call(1, 9.0)]}))
    assert "9.0 ms" in told(tmp_path, session(tmp_path / "first", calls=[call(1, 7.0)]), both)
    assert "7.0 ms" in told(tmp_path, both, session(tmp_path / "second", calls=[call(1, 7.0)]))


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results of a GPU session"):
        read_measured([tmp_path])
