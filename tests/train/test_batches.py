"""Batches: decided by seed and step alone, read ahead by worker processes that leave nothing behind."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from daps_tokenizer.errors import ConfigError, InputError
from tests.paths import ROOT
from tests.photographs import encode_image, noise_photo, write_photos, write_tar
from tests.settings import TINY_GRID
from tests.train.test_training import experiment, run, tensors
from train.__main__ import main
from train.batches import MAX_WORKERS, BatchReader, WorkerEnded, batch_indices, read_ahead, spare_cores
from train.data import Dataset, load_dataset
from train.experiment import Experiment
from train.items import ArrayItems
from train.methods import Batch, Losses
from train.methods.vqvae import VQVAE
from train.photos import PhotosConfig

DATA = PhotosConfig(train=("train-*.tar",), test=("val.tar",), crops_per_image=2, workers=0)


def photos(folder: Path) -> Dataset:
    return load_dataset("photos", folder, photos=DATA, input_shape=TINY_GRID.input_shape)


def reader(folder: Path, **share: int) -> BatchReader:
    return BatchReader(photos(folder).train, batch_size=8, seed=0, views=2, **share)


def photo_experiment(**changes: Any) -> Experiment:
    return experiment(TINY_GRID, "vqvae", **{"dataset": "photos", "data": DATA} | changes)


def children() -> list[Any]:
    return multiprocessing.active_children()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photos(tmp_path)


# --- what is in a batch


def test_a_batch_holds_several_views_of_each_of_its_items_and_an_epoch_every_item_once(folder: Path) -> None:
    items = photos(folder).train
    batch = reader(folder)(1)
    indices = batch_indices(12, 4, step=1, seed=0)
    np.testing.assert_array_equal(batch, items.read(np.repeat(indices, 2), seed=(0, 1)))
    assert batch.shape == (8, 16, 16, 3) and len({view.tobytes() for view in batch}) == 8


def test_the_shares_of_two_processes_make_up_the_batch(folder: Path) -> None:
    shares = [reader(folder, process=process, num_processes=2)(5) for process in (0, 1)]
    pairs = [share.reshape(2, 2, 16, 16, 3) for share in shares]
    np.testing.assert_array_equal(np.stack(pairs, 1).reshape(8, 16, 16, 3), reader(folder)(5))


# --- workers


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_the_same_from_any_number_of_workers_and_from_any_step_on(workers: int, folder: Path) -> None:
    expected = [reader(folder)(step) for step in range(7)]
    with read_ahead(reader(folder), range(2, 7), workers=workers) as batches:
        np.testing.assert_array_equal(list(batches), expected[2:])
    with read_ahead(reader(folder), range(7), workers=0) as batches:
        np.testing.assert_array_equal(list(batches), expected)


def test_workers_end_when_they_are_no_longer_needed(folder: Path) -> None:
    with read_ahead(reader(folder), range(100), workers=2) as batches:
        next(batches)
        assert len(children()) == 2
    assert children() == []
    with pytest.raises(KeyboardInterrupt), read_ahead(reader(folder), range(100), workers=2):
        raise KeyboardInterrupt
    assert children() == []
    with read_ahead(reader(folder), range(0), workers=2) as batches:
        assert list(batches) == children() == []


def test_a_photograph_that_cannot_be_decoded_is_named_by_its_worker(tmp_path: Path) -> None:
    write_photos(tmp_path)
    write_tar(tmp_path / "train-0.tar", {"good.png": encode_image(noise_photo(0)), "bad.png": b"no image"})
    with (
        pytest.raises(InputError, match=rf"^{tmp_path}/train-0\.tar, bad\.png: not an image[^\n]*$"),
        read_ahead(reader(tmp_path), range(2), workers=1) as batches,
    ):
        list(batches)
    assert children() == []


def test_a_worker_that_dies_is_reported() -> None:
    with (  # os._exit ends the process with the number of the step
        pytest.raises(WorkerEnded, match=r"ended early, exit code 7; .*set data\.workers to fewer, or to 0"),
        read_ahead(os._exit, range(7, 9), workers=1) as batches,
    ):
        next(batches)
    assert children() == []


STOPPED = """
import sys; sys.path.insert(0, {root!r})
import os, signal, time
from train.batches import read_ahead
from train.processes import told_to_stop
if __name__ == "__main__":
    os.setpgrp()
    with read_ahead(hex, range(20), workers=2) as batches, told_to_stop() as is_told:
        next(batches), next(batches)  # both workers are up
        os.killpg(0, signal.SIGTERM)
        time.sleep(0.2)
        print(is_told(), *batches)
"""


@pytest.mark.slow
def test_batches_are_still_read_when_a_scheduler_tells_all_processes_to_stop(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(STOPPED.format(root=str(ROOT)))
    finished = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == ["True", *map(hex, range(2, 20))]


KILLED = """
import sys; sys.path.insert(0, {root!r})
import multiprocessing, signal
from train.batches import read_ahead
if __name__ == "__main__":
    with read_ahead(hex, range(10**6), workers=2) as batches:
        next(batches)
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        signal.pause()
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_a_training_process_that_is_killed(ending: int, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(KILLED.format(root=str(ROOT)))
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        process.send_signal(ending)
        process.stdout.read()  # ends when nobody has it open any more: neither the process nor its workers
    assert len(workers) == 2
    assert [pid for pid in workers if is_running(pid)] == []


def is_running(pid: int) -> bool:
    """Whether a process is there and more than an entry that nobody has asked for yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_workers_leave_a_core_to_training_and_are_at_least_one() -> None:
    assert 1 <= spare_cores() <= MAX_WORKERS
    assert spare_cores(num_processes=10_000) == 1


# --- training on photographs


def test_an_interrupted_run_on_photographs_ends_bit_for_bit_as_an_uninterrupted_one(folder: Path) -> None:
    whole = photo_experiment()
    assert whole.data is not None
    run(whole, folder / "whole", photos(folder))
    in_parts = replace(whole, data=replace(whole.data, workers=2))  # how many is no part of what a run is
    assert run(in_parts, folder / "parts", photos(folder), max_seconds=0)["steps"] == 1
    record = run(in_parts, folder / "parts", photos(folder))
    assert record["steps"] == 4 and 0 < record["data_seconds"] < record["seconds"]
    first, second = tensors(folder / "whole"), tensors(folder / "parts")
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert children() == []


def test_a_run_on_other_photographs_is_not_gone_on_with(folder: Path) -> None:
    run(photo_experiment(steps=1), folder / "run", photos(folder))
    with pytest.raises(ConfigError, match="holds a run with another data;"):
        run(photo_experiment(steps=1, data=replace(DATA, flip=False)), folder / "run", photos(folder))
    (folder / "train-1.tar").unlink()
    with pytest.raises(ConfigError, match="holds a run on 12 training items, not 6; choose another --run folder"):
        run(photo_experiment(steps=1), folder / "run", photos(folder))


def test_a_checkpoint_trained_on_photographs_is_evaluated_on_its_test_photographs(folder: Path) -> None:
    run(photo_experiment(steps=1), folder / "run", photos(folder))
    found = CliRunner().invoke(main, ["evaluate", str(folder / "run" / "checkpoint"), "--data", str(folder)])
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout)
    assert (result["dataset"], result["items"]) == ("photos, test set", 3)


def test_each_item_comes_with_its_own_label() -> None:
    numbers = np.arange(24, dtype=np.uint8)
    items = ArrayItems(np.broadcast_to(numbers[:, None, None, None], (24, *TINY_GRID.input_shape)))
    for shared in (BatchReader(items, 8, seed=3), BatchReader(items, 8, seed=3, views=2, process=1, num_processes=2)):
        np.testing.assert_array_equal(shared(4)[:, 0, 0, 0], numbers[shared.indices(4)])


@pytest.mark.parametrize("labelled", [True, False])
def test_the_method_sees_labels_where_the_dataset_has_them(
    labelled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = np.arange(24, dtype=np.uint8)
    items = ArrayItems(np.broadcast_to(numbers[:, None, None, None], (24, *TINY_GRID.input_shape)))
    dataset = Dataset(items, items, numbers if labelled else None, numbers if labelled else None)
    seen: list[Batch] = []
    forward = VQVAE.forward

    def watched(method: VQVAE, batch: Batch, *others: Any) -> Losses:
        seen.append(batch)
        return forward(method, batch, *others)

    monkeypatch.setattr(VQVAE, "forward", watched)
    run(experiment(TINY_GRID, "vqvae"), tmp_path, dataset)
    for batch in seen:
        if labelled:
            assert batch.labels is not None and batch.labels.dtype == torch.int64
            assert torch.equal(batch.labels, batch.inputs[:, 0, 0, 0].long())
        else:
            assert batch.labels is None
    assert len(seen) == 4
