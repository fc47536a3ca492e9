"""What it takes to encode a data set is measured in processes of its own, and reported with what follows on paper."""

import json
from pathlib import Path

import pytest

from benchmarks.dataset import (
    Rate,
    Stages,
    measure_listing,
    measure_memory,
    measure_rates,
    measure_stages,
    on_paper,
    write_dataset,
    write_jpegs,
)
from daps_tokenizer.errors import BackendError
from tests.settings import TINY_GRID

STAGES = Stages(0.1, 4.0, 2.0, 3.5, 0.4, 1.0, file_bytes=50_000, small_file_bytes=20_000, row_bytes=2_048)


def test_times_are_shares_and_become_cores_and_hours() -> None:
    assert STAGES.shares == pytest.approx({"read": 0.01, "decode": 0.4, "resize": 0.2, "encode": 0.35, "write": 0.04})
    one, _, thousand = on_paper(STAGES, gpu_rate=5000)
    assert one == ["1", "5,000", "30", "5", "0.25", "0.10", "0.010", "0.0712", "22.2"]
    assert thousand[:3] == ["1,000", "5,000,000", "30,000"]


def test_the_report_has_the_numbers_and_the_command(tmp_path: Path) -> None:
    rates = [Rate("1 process, 1 core", 100, 10.0, 10.0), Rate("2 processes, 1 core each", 100, 5.0, 20.0)]
    content = {"command": "python -m benchmarks dataset", "machine": {"date": "2026-11-28"}, "gpu_rate": 5000.0}
    content |= {"model": "m", "memory_model": "n", "data": "100 JPEG files", "load_average": 0.3}
    memory, listing = {100: 200.0, 200: 201.0}, {"tar files": 21.0, "folders": 8.0}
    json_path, text_path = write_dataset(tmp_path, rates, STAGES, memory, listing, content)
    text = text_path.read_text()
    assert "| 2 processes, 1 core each | 100 | 20.0 | 2.00 |" in text and "| decode | 4.00 | 40% |" in text
    assert "21 s of processor time for a million in tar files with labels, 8 s for a million files in folders" in text
    assert "A card needs 30 cores to decode and resize for it, and 5 where" in text.replace("\n", " ")
    assert json.loads(json_path.read_text())["memory_mb"] == {"100": 200.0, "200": 201.0}


@pytest.mark.slow
def test_a_tiny_data_set_is_measured(random_mnist_folder: Path, tmp_path: Path) -> None:
    photos, model = write_jpegs(tmp_path / "photos.tar", 6, (40, 30)), str(random_mnist_folder)
    rates = measure_rates(photos, model, 6, with_ray=False)
    assert [rate.images for rate in rates] == [6] * len(rates) and min(rate.images_per_second for rate in rates) > 0
    stages = measure_stages(photos, model, 6)
    assert sum(stages.shares.values()) == pytest.approx(1) and stages.row_bytes > 8 and stages.file_bytes > 100
    assert set(measure_memory(photos, model, [3, 6])) == {3, 6}
    assert min(measure_listing(20, TINY_GRID).values()) > 0
    with pytest.raises(BackendError, match=r"daps-tokenize dataset failed: error: .*missing\.tar: no such file"):
        measure_memory(tmp_path / "missing.tar", model, [3])
