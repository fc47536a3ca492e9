"""The table of methods: equal cells, none run twice, and files that say what is in them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks.__main__ import main
from benchmarks.studies.table import TableConfig, load_table, run_cell, stages
from benchmarks.studies.table_report import COLUMNS, common_curves, metrics_of, write_table
from daps_tokenizer.errors import ConfigError
from tests.paths import ROOT
from tests.settings import TINY_MLP
from tests.train.methods.test_methods import digits

CONFIGS = ROOT / "train" / "configs"
MNIST, CIFAR10, MOTION = (load_table(CONFIGS / f"table_{name}.yaml") for name in ("mnist", "cifar10", "motion"))
TINY = TableConfig(
    model=TINY_MLP,
    dataset="mnist",
    steps=4,
    batch_size=8,
    parallel={"num_layers": 2},
    evaluation_items=16,
    rows={
        "daps": {"title": "DAPS", "method": "daps", "settings": {"num_samples": 4}, "paper": {"log_p": -49.08}},
        "fsq": {"title": "FSQ", "method": "fsq", "kind": "levels", "levels": [4, 3], "learning_rate": 1e-2},
        "gaussian": {"title": "Gaussian VAE", "method": "gaussian_vae", "kind": "gaussian"},
    },
    ablations={
        "beta": {"1/2": {"row": "daps", "settings": {"beta_final": 0.5}}},
        "start": {"warm": {"row": "daps", "steps": 2, "first": {"method": "vqvae", "steps": 3}}},
    },
)


def cell(name: str, folder: Path, seed: int = 0, ablation: str | None = None) -> dict[str, Any]:
    found = run_cell(TINY, name, TINY.table_rows(ablation)[name], seed, digits(32), folder, max_seconds=1e9)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("cells")
    return [cell(name, folder, seed) for name in TINY.rows for seed in range(2)]


@pytest.mark.parametrize("table", [MNIST, CIFAR10, MOTION, TINY], ids=["mnist", "cifar10", "motion", "tiny"])
def test_all_rows_have_equal_steps_batch_schedule_and_generative_model(table: TableConfig) -> None:
    plans = [stages(table, name, row, seed=1) for name, row in table.table_rows().items()]
    assert {sum(run.steps for run in plan) for plan in plans} == {table.steps}
    runs = [plan[-1] for plan in plans]
    assert {(run.batch_size, run.seed) for run in runs} == {(table.batch_size, 1)}
    assert {run.model.generative for run in runs} == {table.model.generative}
    schedules = {repr(dataclasses.replace(run.optimiser, learning_rate=1.0)) for run in runs}
    assert schedules == {repr(dataclasses.replace(table.optimiser, learning_rate=1.0))}
    for run in runs:
        parallel = run.model.recognition.kind != "autoregressive"
        assert run.model.recognition.num_layers == (
            table.parallel["num_layers"] if parallel else table.model.recognition.num_layers
        )


def test_every_ablation_of_mnist_is_a_row_that_can_be_run() -> None:
    assert set(MNIST.ablations) == {"beta", "ess", "samples", "start", "trust_region"}
    for ablation in MNIST.ablations:
        for name, row in MNIST.table_rows(ablation).items():
            assert stages(MNIST, name, row, seed=0)[-1].method == "daps"


def test_a_cell_says_what_was_run_and_what_it_gave(cells: list[dict[str, Any]]) -> None:
    first = cells[0]
    assert first["row"] == "daps" and first["stages"][0]["steps"] == 4 and first["bits"] == 32.0
    assert [point["step"] for point in first["curve"]] == [1, 2, 3, 4]
    assert first["evaluation"]["items"] == 16 and first["cpu_seconds_per_step"] > 0 and first["machine"]["date"]
    assert cells[0]["evaluation"] != cells[1]["evaluation"], "another seed is another run"


def test_a_finished_cell_is_not_run_again_and_an_interrupted_one_goes_on(tmp_path: Path) -> None:
    row, data = TINY.table_rows()["daps"], digits(32)
    assert run_cell(TINY, "daps", row, 0, data, tmp_path, max_seconds=0.0) is None
    found = cell("daps", tmp_path)
    (tmp_path / "daps-seed0.json").write_text(json.dumps(found | {"title": "as it was"}))
    assert cell("daps", tmp_path)["title"] == "as it was"


def test_a_folder_of_cells_with_other_settings_is_refused(tmp_path: Path) -> None:
    cell("fsq", tmp_path)
    longer = dataclasses.replace(TINY, steps=5)
    with pytest.raises(ConfigError, match=r"fsq-seed0\.json: holds this cell with other settings; delete it"):
        run_cell(longer, "fsq", TINY.table_rows()["fsq"], 0, digits(32), tmp_path, max_seconds=1e9)


def test_a_cell_can_start_from_a_first_stage(tmp_path: Path) -> None:
    found = cell("warm", tmp_path, ablation="start")
    assert [(stage["method"], stage["steps"]) for stage in found["stages"]] == [("vqvae", 3), ("daps", 2)]
    record = json.loads((tmp_path / "warm-seed0" / "checkpoint" / "training.json").read_text())
    assert record["stages_before"][0]["experiment"]["method"] == "vqvae"


def test_an_ablation_changes_a_row_and_may_have_a_slash_in_its_name(tmp_path: Path) -> None:
    found = cell("1/2", tmp_path, ablation="beta")
    assert found["stages"][0]["settings"] == {"num_samples": 4, "beta_final": 0.5}
    assert (tmp_path / "1_of_2-seed0.json").is_file()


def test_columns_follow_from_what_was_evaluated(cells: list[dict[str, Any]]) -> None:
    daps, fsq, gaussian = (metrics_of(cells[i], beta=0.1) for i in (0, 2, 4))
    assert daps["elbo"] == pytest.approx(daps["log_p"] - daps["kl"])
    assert daps["beta_elbo"] == pytest.approx(daps["log_p"] - 0.1 * daps["kl"])
    assert fsq["dead"] == 12 - cells[2]["evaluation"]["codes_used"]
    assert "dead" not in gaussian and "code_perplexity" not in gaussian


def test_the_files_hold_every_cell_and_the_papers_numbers(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    paper = {"daps": {"log_p": -49.08}}
    paths = write_table(tmp_path, "table_tiny", cells, beta=0.01, paper=paper, command="benchmarks table")
    assert [path.name for path in paths] == ["table_tiny.json", "table_tiny.md", "table_tiny.png"]
    assert json.loads(paths[0].read_text())["cells"] == cells
    lines = paths[1].read_text().splitlines()
    rows = [line for line in lines if line.startswith(("| DAPS", "| FSQ", "| Gaussian"))]
    assert len(rows) == 3 and "| -49.08 |" in rows[0] and all("±" in row and "| 4 | 2 |" in row for row in rows)
    assert all(row.count("|") == lines[4].count("|") for row in rows) and len(COLUMNS) < lines[4].count("|")
    assert paths[2].read_bytes().startswith(b"\x89PNG") and paths[2].stat().st_size < 200_000


def test_a_cell_that_was_interrupted_is_drawn_next_to_one_that_was_not(
    cells: list[dict[str, Any]], tmp_path: Path
) -> None:
    whole, interrupted = ({"curve": [{"step": s, "log_p": -float(s)} for s in steps]} for steps in ((2, 4), (2, 3, 4)))
    steps, values = common_curves([interrupted, whole])
    assert steps == [2, 4] and values.tolist() == [[-2, -4], [-2, -4]]
    unequal = [cells[0] | whole, cells[1] | interrupted]
    paths = write_table(tmp_path, "table_tiny", unequal, beta=0.01, paper={}, command="benchmarks table")
    assert all(path.stat().st_size for path in paths)


def test_a_table_that_cannot_be_drawn_leaves_no_file(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    damaged = [cells[0] | {"curve": [{}]}]
    with pytest.raises(KeyError):
        write_table(tmp_path / "out", "table_tiny", damaged, beta=0.01, paper={}, command="benchmarks table")
    assert not (tmp_path / "out").exists()


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["table", *map(str, arguments)])


def test_the_command_names_what_it_does_not_know(tmp_path: Path) -> None:
    assert "table_nothing.yaml: no such file" in run("--dataset", "nothing").output
    assert "no row 'dap' in this table; there are daps, daps_warm, daps_na" in run("--methods", "dap").output
    assert "no ablation 'gamma' of mnist; there are beta, ess, samples, start" in run("--ablation", "gamma").output
