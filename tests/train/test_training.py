"""The training loop: it resumes exactly, says what went wrong, and leaves readable records."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError, InputError, ModelFileError
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.paths import ROOT
from tests.settings import TINY_GRID, TINY_MLP, TINY_MOTION
from train.batches import batch_indices
from train.checkpoint import read_record
from train.data import Dataset
from train.experiment import Experiment
from train.items import ArrayItems
from train.loop import MAX_SKIPPED_IN_A_ROW, TrainingDiverged, fit
from train.methods.daps import DAPS
from train.optimisation import OptimiserConfig
from train.processes import TrainingStopped, told_to_stop
from train.recorder import read_metrics


def experiment(model: TokenizerConfig = TINY_MLP, method: str = "daps", **changes: Any) -> Experiment:
    settings = {"daps": {"num_samples": 4}, "vqvae": {"revive_every": 2}, "distil": {}}[method]
    values = {
        "dataset": "mnist",
        "settings": settings,
        "steps": 4,
        "batch_size": 8,
        "log_every": 1,
        "evaluation_items": 4,
    } | changes
    return Experiment("test", model, method=method, **values)


def noise(model: TokenizerConfig = TINY_MLP, items: int = 24) -> Dataset:
    rng = np.random.default_rng(0)
    if model.modality == "motion":
        train, test = (rng.normal(size=(n, *model.input_shape)).astype(np.float32) for n in (items, 8))
    else:
        train, test = (rng.integers(0, 256, (n, *model.input_shape), dtype=np.uint8) for n in (items, 8))
    return Dataset(ArrayItems(train), ArrayItems(test))


def run(settings: Experiment, folder: Path, dataset: Dataset | None = None, **options: Any) -> dict[str, Any]:
    return fit(
        settings, dataset or noise(settings.model), folder, **{"show_progress": False, "draw_pictures": False} | options
    )


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Weights, optimiser moments, η and whatever else the checkpoint of a run holds."""
    return {
        f"{file}: {name}": value
        for file in ("model", "state")
        for name, value in load_file(folder / "checkpoint" / f"{file}.safetensors").items()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step. Tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(experiment(steps=1), folder)
    return folder


# --- stopping and resuming


@pytest.mark.parametrize(
    ("model", "method"),
    [(TINY_MLP, "daps"), (TINY_GRID, "vqvae"), (TINY_MLP, "distil")],
    ids=lambda value: getattr(value, "name", value),
)
def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(
    model: TokenizerConfig, method: str, tmp_path: Path
) -> None:
    optimiser = OptimiserConfig(learning_rate=1e-3, warmup_steps=2, schedule="cosine")
    settings = experiment(model, method, optimiser=optimiser)
    run(settings, tmp_path / "whole")
    assert run(settings, tmp_path / "parts", max_seconds=0)["steps"] == 1
    assert run(settings, tmp_path / "parts")["steps"] == 4

    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert whole.keys() == parts.keys() and any("optimiser" in name for name in whole)
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    if method == "daps":
        assert float(whole["state: method.trust_region.log_eta"]) != pytest.approx(np.log(100.0), abs=1e-6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_scheduler_stop_a_run_after_a_step_that_is_saved(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = experiment(TINY_MLP)
    run(settings, tmp_path / "whole")
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def stop(self: DAPS, step: int, generator: torch.Generator) -> None:
        if step == 1:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patched:
        patched.setattr(DAPS, "after_step", stop)
        with pytest.raises(TrainingStopped, match="parts: stopped; step 2 is saved, the same command resumes"):
            run(settings, tmp_path / "parts")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert read_record(tmp_path / "parts" / "checkpoint")["steps"] == 2
    run(settings, tmp_path / "parts")
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_a_run_that_is_stopped_in_its_last_step_is_evaluated_and_ends_what_it_is_a_part_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: DAPS, step: int, generator: torch.Generator) -> None:
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(DAPS, "after_step", stop)
    with pytest.raises(TrainingStopped) as stopped:  # `chain` must not begin its next stage
        run(experiment(TINY_MLP), tmp_path / "run")
    record = read_record(tmp_path / "run" / "checkpoint")
    assert record["steps"] == 4 and "validation" in record and stopped.value.exit_code == 130


def test_a_second_signal_ends_a_run_at_once_and_ignored_signals_stay_ignored() -> None:
    with pytest.raises(KeyboardInterrupt), told_to_stop() as is_told:
        signal.raise_signal(signal.SIGINT)
        assert is_told()
        signal.raise_signal(signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of what a shell starts with &
    try:
        with told_to_stop() as is_told:
            signal.raise_signal(signal.SIGINT)
            assert not is_told()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_finished_run_is_left_as_it_is(finished: Path) -> None:
    before = (finished / "checkpoint" / "training.json").read_text(), (finished / "metrics.jsonl").read_text()
    assert run(experiment(steps=1), finished)["validation"] == json.loads(before[0])["validation"]
    assert before == ((finished / "checkpoint" / "training.json").read_text(), (finished / "metrics.jsonl").read_text())


def test_a_run_killed_while_its_checkpoint_was_replaced_resumes_from_the_last_one(
    finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "checkpoint").rename(folder / "checkpoint.previous")
    (folder / "checkpoint.writing").mkdir()
    assert run(experiment(steps=1), folder)["steps"] == 1
    assert tensors(folder).keys() == tensors(finished).keys()


def test_every_epoch_is_a_new_order_of_all_items() -> None:
    epochs = [np.concatenate([batch_indices(24, 8, 3 * epoch + step, seed=0) for step in range(3)]) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(24)) for order in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()


def test_a_batch_depends_on_seed_and_step_alone_and_leaves_the_remainder_of_an_epoch_out() -> None:
    assert batch_indices(20, 8, 5, seed=1).tolist() == batch_indices(20, 8, 5, seed=1).tolist()
    assert batch_indices(20, 8, 5, seed=1).tolist() != batch_indices(20, 8, 5, seed=2).tolist()
    epoch = np.concatenate([batch_indices(20, 8, step, seed=0) for step in range(2)])
    assert len(epoch) == len(set(epoch)) == 16
    with pytest.raises(InputError, match="batch_size 8 is larger than the dataset of 7 items"):
        batch_indices(7, 8, 0, seed=0)


# --- a run folder belongs to one experiment


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 4),
        ("optimiser", OptimiserConfig(learning_rate=1.0)),
        ("settings", {"num_samples": 5}),
        ("model", replace(TINY_MLP, vocab_size=32)),
    ],
)
def test_a_run_of_other_settings_is_not_gone_on_with(key: str, value: object, finished: Path) -> None:
    with pytest.raises(ConfigError, match=rf"holds a run with another {key}; choose another --run folder"):
        run(replace(experiment(steps=1), **{key: value}), finished)


def test_a_run_from_before_a_setting_was_there_goes_on_with_its_default(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    path = folder / "checkpoint" / "training.json"
    record = json.loads(path.read_text())
    del record["experiment"]["data"], record["experiment"]["optimiser"]["final_fraction"]
    del record["train_items"], record["data_seconds"]
    path.write_text(json.dumps(record))
    assert run(experiment(steps=1), folder)["steps"] == 1
    with pytest.raises(ConfigError, match="holds a run with another optimiser;"):
        run(experiment(steps=1, optimiser=OptimiserConfig(schedule="cosine", final_fraction=0.5)), folder)


def test_a_run_of_settings_that_are_no_longer_known_is_named(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    path = folder / "checkpoint" / "training.json"
    record = json.loads(path.read_text())
    record["experiment"]["colour"] = "red"
    path.write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"checkpoint/training\.json: unknown key 'colour'; known keys are"):
        run(experiment(steps=1), folder)


def test_a_run_of_another_method_is_not_gone_on_with(finished: Path) -> None:
    with pytest.raises(ConfigError, match="holds a run with another method, settings;"):
        run(experiment(method="vqvae", steps=1), finished)


@pytest.mark.parametrize("damage", ["cut short", "another run's", "missing"])
@pytest.mark.parametrize("file", ["state.safetensors", "training.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_named(file: str, damage: str, finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    path = folder / "checkpoint" / file
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "missing":
        path.unlink()
    elif file == "training.json":
        path.write_text("{}")
    else:
        save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match=file.replace(".", r"\.")):
        run(experiment(steps=1), folder)


# --- stages


def test_a_run_starts_from_the_weights_of_another_and_remembers_it(tmp_path: Path) -> None:
    run(experiment(method="vqvae", steps=2), tmp_path / "first")
    start = str(tmp_path / "first" / "checkpoint")
    gentle = OptimiserConfig(learning_rate=1e-9, weight_decay=0.0)
    record = run(experiment(steps=1, start_from=start, optimiser=gentle), tmp_path / "second")
    (stage,) = record["stages_before"]
    assert stage["experiment"]["method"] == "vqvae" and stage["steps"] == 2 and stage["validation"]["items"] == 4
    before, after = tensors(tmp_path / "first"), tensors(tmp_path / "second")
    for name in (name for name in before if name.startswith("model")):
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)

    third = run(experiment(steps=1, start_from=str(tmp_path / "second" / "checkpoint")), tmp_path / "third")
    assert [stage["experiment"]["method"] for stage in third["stages_before"]] == ["vqvae", "daps"]


@pytest.mark.parametrize("missing", ["model.safetensors", "training.json"])
def test_a_start_that_is_no_checkpoint_is_named(missing: str, finished: Path, tmp_path: Path) -> None:
    start = shutil.copytree(finished / "checkpoint", tmp_path / "checkpoint")
    (start / missing).unlink()
    with pytest.raises(ModelFileError, match=f"checkpoint/{missing}: .*; expected"):
        run(experiment(steps=1, start_from=str(start)), tmp_path / "second")


# --- updates that must not be made


def broken_motion(items: int, broken: int) -> Dataset:
    train = np.random.default_rng(0).normal(size=(items, *TINY_MOTION.input_shape)).astype(np.float32)
    train[:broken] = np.nan
    return replace(noise(TINY_MOTION), train=ArrayItems(train))


def test_an_update_whose_gradient_is_not_finite_is_skipped(tmp_path: Path) -> None:
    settings = experiment(TINY_MOTION, steps=3, settings={"num_samples": 4})
    run(settings, tmp_path, broken_motion(items=24, broken=1))  # in one of the three batches of the epoch
    assert all(value.isfinite().all() for value in tensors(tmp_path).values())
    assert max(float(value) for name, value in tensors(tmp_path).items() if name.endswith("step")) == 2


def test_one_hundred_skipped_updates_in_a_row_are_borne_and_no_more(tmp_path: Path) -> None:
    assert MAX_SKIPPED_IN_A_ROW == 100
    bad = broken_motion(items=8, broken=8)
    settings = experiment(TINY_MOTION, method="vqvae", log_every=1000, evaluation_items=1)
    run(replace(settings, steps=100), tmp_path / "borne", bad)
    torch.manual_seed(settings.seed)
    untouched = Autoencoder(TINY_MOTION).generative.output.weight
    assert torch.equal(tensors(tmp_path / "borne")["model: generative.output.weight"], untouched)
    with pytest.raises(TrainingDiverged, match="diverged: gradients not finite for 101 steps in a row"):
        run(replace(settings, steps=101), tmp_path / "diverged", bad)


# --- what a run leaves


def test_metrics_are_recorded_once_per_step_even_if_the_run_was_interrupted(tmp_path: Path) -> None:
    settings = experiment(steps=3, evaluate_every=2, checkpoint_every=2)
    run(settings, tmp_path, max_seconds=0)
    with (tmp_path / "metrics.jsonl").open("a") as file:  # as a run leaves it that is killed after its checkpoint
        file.write('{"step": 2, "kind": "train", "log_p": 0.0}\n{"step": 3, "ki')  # in the middle of a line
    run(settings, tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [1, 2, 3]
    names = {"log_p", "elbo", "ess", "eta", "beta", "entropy", "codes_in_batch"}
    assert all(names <= line.keys() and line["log_p"] != 0.0 for line in lines if line["kind"] == "train")


def test_tensorboard_keeps_every_step_of_a_run_that_was_resumed(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = experiment(steps=3)
    for seconds in (0, 0, None):
        run(settings, tmp_path, show_progress=True, draw_pictures=True, max_seconds=seconds)
    written = EventAccumulator(str(tmp_path / "tensorboard"))
    written.Reload()
    assert [event.step for event in written.Scalars("train/log_p")] == [1, 2, 3]
    record = json.loads((tmp_path / "checkpoint" / "training.json").read_text())
    assert record["validation_step"] == record["steps"] == 3


def test_beta_falls_from_step_to_step_as_its_schedule_says(tmp_path: Path) -> None:
    run(experiment(settings={"num_samples": 4, "beta_initial": 8.0, "beta_final": 0.5}), tmp_path)
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["beta"] for line in lines] == pytest.approx([8.0, 4.0, 2.0, 1.0])  # and 0.5 when all is done


@pytest.mark.parametrize("model", [TINY_GRID, TINY_MOTION], ids=lambda model: model.name)
def test_a_run_leaves_a_dashboard_a_tensorboard_and_a_record(model: TokenizerConfig, tmp_path: Path) -> None:
    settings = experiment(model, steps=2)
    record = run(settings, tmp_path, draw_pictures=True)
    with Image.open(tmp_path / "dashboard.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 400
    assert list((tmp_path / "tensorboard").iterdir())
    written = json.loads((tmp_path / "checkpoint" / "training.json").read_text())
    assert written["experiment"] == json.loads(json.dumps(asdict(settings)))
    assert written["validation"] == record["validation"] and written["steps"] == 2
    assert TokenizerConfig.from_file(tmp_path / "checkpoint" / "config.json") == model


# --- more than one process

TWO_PROCESSES = """
import sys; sys.path.insert(0, {root!r})
import torch
from pathlib import Path
from tests.train.test_training import experiment, run
import train.experiment as experiments
made = []
build = experiments.build_method
experiments.build_method = lambda *arguments: made.append(build(*arguments)) or made[-1]
settings = experiment(method="vqvae", steps=5, settings={{"revive_every": 2, "revive_below": 0.9}})
for seconds in (0, None):
    print(run(settings, Path({folder!r}), max_seconds=seconds)["steps"])
own = torch.cat([p.detach().flatten() for n, p in made[-1].model.named_parameters() if "head" not in n])
others = [torch.empty_like(own) for _ in range(2)]
torch.distributed.all_gather(others, own)
print(torch.equal(*others))
"""


@pytest.mark.slow
def test_two_processes_train_one_model_stop_together_and_keep_one_record(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    code = TWO_PROCESSES.format(root=str(ROOT), folder=str(tmp_path))
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | common | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        assert [process.communicate(timeout=100)[0].split() for process in processes] == [["1", "5", "True"]] * 2
    finally:
        for process in processes:
            process.kill()
    train = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "train"]
    assert train == [1, 2, 3, 4, 5]
