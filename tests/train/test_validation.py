"""Items held out of the training data: the same for every run, never trained on, and never the test set."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.motion.dataset import VALIDATION_CLIPS
from tests.photographs import write_photos
from tests.settings import TINY_GRID
from tests.train.test_motion_data import write_archive
from tests.train.test_train_cli import digits  # noqa: F401 - a fixture
from tests.train.test_training import experiment, noise, run
from train.data import load_dataset
from train.experiment import open_dataset
from train.items import split_places
from train.photos import PhotosConfig


def test_the_draw_is_the_same_every_time_and_shares_nothing_with_what_stays() -> None:
    kept, held_out = split_places(1000, 100)
    again = split_places(1000, 100)
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate([kept, held_out]))
    assert sorted([*kept, *held_out]) == list(range(1000)) and len(held_out) == 100
    assert held_out.min() < 100 and held_out.max() > 900  # from everywhere, as files are often in order of their class
    with pytest.raises(ConfigError, match="validation_items must be fewer than the 10 training items, not 10"):
        split_places(10, 10)


def test_images_in_memory_are_held_out_with_their_labels(digits: Path) -> None:  # noqa: F811
    whole, split = load_dataset("mnist", digits), load_dataset("mnist", digits, validation_items=3)
    assert (len(split.train), len(split.watched), len(split.test)) == (5, 3, 8)
    assert split.train_labels is not None and whole.train_labels is not None and split.validation is not None
    everything = whole.train.read(np.arange(8), seed=(0,))
    np.testing.assert_array_equal(split.train.read(np.arange(5), seed=(0,)), everything[split.train_labels])
    held_out = np.setdiff1d(whole.train_labels, split.train_labels)
    np.testing.assert_array_equal(split.validation.read(np.arange(3), seed=(0,)), everything[held_out])
    assert whole.watched is whole.test


def test_photographs_are_held_out_as_centre_crops(tmp_path: Path) -> None:
    write_photos(tmp_path)
    settings = PhotosConfig(train=("train-*.tar",), test=("val.tar",))
    split = load_dataset("photos", tmp_path, photos=settings, input_shape=(16, 16, 3), validation_items=4)
    assert (len(split.train), len(split.watched)) == (8, 4)
    first, second = (split.watched.read(np.arange(4), seed=(seed,)) for seed in (0, 1))
    np.testing.assert_array_equal(first, second)  # a centre does not depend on the seed; a training crop does
    crops = [split.train.read(np.arange(8), seed=(seed,)) for seed in (0, 1)]
    assert not np.array_equal(*crops)


def test_one_folder_can_give_the_test_photographs_too(tmp_path: Path) -> None:
    write_photos(tmp_path)
    settings = PhotosConfig(train=("train-*.tar",), test=(), test_items=2)
    split = load_dataset("photos", tmp_path, photos=settings, input_shape=(16, 16, 3), validation_items=3)
    assert (len(split.train), len(split.watched), len(split.test)) == (7, 3, 2)
    seen = [items.read(np.arange(len(items)), seed=(0,)) for items in (split.watched, split.test)]
    assert len(np.unique(np.concatenate(seen).reshape(5, -1), axis=0)) == 5


@pytest.mark.parametrize("test", [((), 0), (("val.tar",), 3)], ids=["neither", "both"])
def test_where_test_photographs_come_from_is_said_once(test: tuple[tuple[str, ...], int]) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.test must name at least one source of photographs; or it is \[\], and"
    ):
        PhotosConfig(test=test[0], test_items=test[1])


def test_of_motion_the_end_of_every_clip_is_held_out_so_that_no_frame_is_in_both(tmp_path: Path) -> None:
    folder = write_archive(tmp_path, ("walk1_subject1", *VALIDATION_CLIPS, "run1_subject2"), frames=80)
    whole = load_dataset("motion", folder, input_shape=(32, 127))
    split = load_dataset("motion", folder, input_shape=(32, 127), validation_items=4)
    assert len(split.watched) == 4 and len(split.train) < len(whole.train) - 4
    train = split.train.read(np.arange(len(split.train)), seed=(0,)).reshape(-1, 127)
    held_out = split.watched.read(np.arange(4), seed=(0,)).reshape(-1, 127)
    frames = {frame.tobytes() for frame in train}
    assert not any(frame.tobytes() in frames for frame in held_out)
    with pytest.raises(ConfigError, match="validation_items 9000 leave nothing of the shortest clip to train on"):
        load_dataset("motion", folder, input_shape=(32, 127), validation_items=9000)
    with pytest.raises(ConfigError, match="validation_items of motion are at most 10,000, not 20000"):
        load_dataset("motion", folder, input_shape=(32, 127), validation_items=20_000)


def test_a_run_is_watched_on_what_was_held_out(tmp_path: Path) -> None:
    dataset = noise()
    settings = experiment(steps=1, evaluation_items=100)
    record = run(settings, tmp_path / "test", dataset)
    validation = replace(dataset, validation=noise(items=5).train)
    watched = run(replace(settings, validation_items=5), tmp_path / "validation", validation)
    assert (record["validation"]["items"], watched["validation"]["items"]) == (8, 5)
    with pytest.raises(ConfigError, match="test: validation_items is set and the dataset was opened without any"):
        run(replace(settings, validation_items=5), tmp_path / "none", dataset)


def test_photographs_are_also_found_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    photos = PhotosConfig(train=("train-*.tar",), test=("val.tar",))
    settings = experiment(TINY_GRID, "vqvae", dataset="photos", data=photos)
    assert len(open_dataset(settings, tmp_path / "no such folder").train) == 12
