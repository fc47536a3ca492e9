"""Photographs as training data: found in tar files, folders and Hugging Face datasets, cropped when they are read."""

import pickle
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.data.sources import open_source
from daps_tokenizer.errors import ConfigError, InputError
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.paths import DATA, ROOT
from tests.photographs import encode_image, noise_photo, write_photos, write_tar
from tests.settings import MNIST, TINY_GRID, TINY_MOTION
from train.experiment import Experiment, load_experiment
from train.items import Items
from train.photos import PhotoItems, PhotosConfig, open_photos

needs_photos = pytest.mark.skipif(
    not list(DATA.glob("photos256-*.tar")), reason="photos256-*.tar are neither in $DAPS_DATA nor ../shared/data"
)


def photos(folder: Path, shape: tuple[int, ...] = (16, 16, 3), **settings: Any) -> tuple[Items, Items]:
    """Training and test items of what :func:`write_photos` wrote."""
    return open_photos(PhotosConfig(train=("train-*.tar",), test=("val.tar",), **settings), folder, shape)[:2]


def one_photo(folder: Path, pixels: np.ndarray, shape: tuple[int, ...], **settings: Any) -> tuple[Items, ...]:
    """Training and test items that are views of one photograph."""
    write_tar(folder / "one.tar", {"one.png": encode_image(pixels)})
    return open_photos(PhotosConfig(train=("one.tar",), test=("one.tar",), **settings), folder, shape)[:2]


def views(items: Items, count: int, seed: int = 0) -> np.ndarray:
    """Random views of the first photograph."""
    return items.read(np.zeros(count, int), seed=(seed,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photos(tmp_path)


# --- where photographs come from


def test_photographs_are_found_in_tar_files_in_order_and_other_members_are_left_out(tmp_path: Path) -> None:
    names = ["a/0.webp", "a/0.json", "0.PNG", "1.jpg", "1.txt", "2.jpeg"]
    write_tar(tmp_path / "b-1.tar", {name: name.encode() for name in names})
    write_tar(tmp_path / "b-0.tar", {"first.png": b"first", "empty.png": b""})
    source = open_source("tar", ("b-*.tar",), tmp_path)
    found = [b"first", b"", b"a/0.webp", b"0.PNG", b"1.jpg", b"2.jpeg"]
    assert [source.read(index) for index in range(len(source))] == found
    assert source.name(2) == f"{tmp_path}/b-1.tar, a/0.webp"


def test_photographs_are_found_in_folders_to_any_depth(tmp_path: Path) -> None:
    for name in ("set/b/1.png", "set/a/deep/0.JPG", "set/c.txt", "other/2.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    source = open_source("folder", ("set", "oth*"), tmp_path)
    assert [source.read(n) for n in range(len(source))] == [b"set/a/deep/0.JPG", b"set/b/1.png", b"other/2.webp"]
    assert source.name(0) == f"{tmp_path}/set/a/deep/0.JPG"


def test_a_pattern_may_be_absolute(folder: Path) -> None:
    assert len(open_source("tar", (f"{folder}/train-*.tar",), Path("elsewhere"))) == 12


@pytest.mark.parametrize(
    ("kind", "pattern", "message"),
    [
        (
            "tar",
            "none-*.tar",
            r"none-\*\.tar: no such file or folder, or nothing in it; expected files, a folder or a pattern",
        ),
        ("tar", "text.txt", r"text\.txt: is damaged at byte 0; expected an uncompressed tar file"),
        ("tar", "zipped.tar.gz", r"zipped\.tar\.gz: is damaged at byte 0; expected an uncompressed tar file"),
        ("tar", "empty", r"empty: no such file or folder, or nothing in it"),
        ("tar", "texts.tar", r"texts\.tar: holds no images; expected members named \*\.webp, \.jpg"),
        ("tar", "short.tar", r"short\.tar: is cut short at byte 1600; expected an uncompressed tar"),
        ("tar", "damaged.tar", r"damaged\.tar: is damaged at byte 1024; expected an uncompressed tar"),
        ("folder", "text.txt", r"text\.txt: is not a folder; expected a folder of images, or data\.kind: tar"),
        ("folder", "empty", r"empty: no such file or folder, or nothing in it"),
    ],
)
def test_a_source_without_photographs_is_named(kind: Any, pattern: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("no photographs")
    (tmp_path / "empty").mkdir()
    write_tar(tmp_path / "zipped.tar.gz", {"0.png": b"0"}, "w:gz")
    write_tar(tmp_path / "texts.tar", {"0.txt": b"0"})
    whole = write_tar(tmp_path / "whole.tar", {"0.png": b"0", "1.png": b"1"}).read_bytes()
    (tmp_path / "short.tar").write_bytes(whole[:1600])  # ends within the second photograph
    (tmp_path / "damaged.tar").write_bytes(whole[:1100] + b"\xff" * 100 + whole[1200:])  # in the second header
    with pytest.raises(InputError, match=rf"^{tmp_path}/{message}[^\n]*$"):
        open_source(kind, (pattern,), tmp_path)


def test_a_photograph_that_has_gone_since_is_named(tmp_path: Path) -> None:
    image = tmp_path / "set" / "0.png"
    image.parent.mkdir()
    image.write_bytes(b"0")
    tar = write_tar(tmp_path / "one.tar", {"0.png": b"0" * 5000})
    in_folder, in_tar = open_source("folder", ("set",), tmp_path), open_source("tar", ("one.tar",), tmp_path)
    image.unlink()
    with pytest.raises(InputError, match=r"set/0\.png: cannot be read \(No such file or directory\); expected"):
        in_folder.read(0)
    tar.write_bytes(tar.read_bytes()[:1024])
    with pytest.raises(InputError, match=r"one\.tar: has become shorter; expected the tar file as it was"):
        in_tar.read(0)
    tar.unlink()
    with pytest.raises(InputError, match=r"one\.tar: cannot be read \(No such file or directory\); expected"):
        in_tar.read(0)


@pytest.fixture
def dataset_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the datasets library loads as a dataset with a split named train."""
    datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for number in range(3):
        path = tmp_path / "set" / "train" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(noise_photo(number)))
    return tmp_path / "set"


def test_a_hugging_face_dataset_gives_encoded_images(dataset_of_the_library: Path) -> None:
    name = f"{dataset_of_the_library}:train"
    items, *_ = open_photos(PhotosConfig("huggingface", (name, name), (name,)), Path(), (24, 32, 3))
    assert len(items) == 6 and items.source.name(4) == f"{name}, {name}, row 4"
    whole, *_ = open_photos(PhotosConfig("huggingface", (name,), (name,), flip=False), Path(), (24, 32, 3))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(whole)).read(np.array([2]), seed=(0,))[0], noise_photo(2))


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("{set}", "image", "set: expected a Hugging Face dataset and its split as name:split"),
        ("{set}:validation", "image", "set:validation: cannot be loaded .*; expected a Hugging Face dataset"),
        ("{set}:train", "photo", "set:train: no column 'photo'; set data.image_column to one of image"),
    ],
)
def test_a_hugging_face_dataset_that_is_not_one_is_named(
    name: str, column: str, message: str, dataset_of_the_library: Path
) -> None:
    with pytest.raises(InputError, match=message):
        open_source("huggingface", (name.format(set=dataset_of_the_library),), Path(), image_column=column)


def test_without_the_datasets_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"huggingface needs the datasets library, .*pip install .*\[datasets\]"):
        open_source("huggingface", ("name:train",), Path())


# --- from photograph to item


def test_a_test_item_is_the_centre_and_the_same_every_time(folder: Path) -> None:
    _, test = photos(folder)
    items = test.read(np.array([0, 2]), seed=(0,))
    assert items.shape == (2, 16, 16, 3) and items.dtype == np.uint8
    np.testing.assert_array_equal(items[1], noise_photo(14)[4:20, 8:24])
    np.testing.assert_array_equal(items, test.read(np.array([0, 2]), seed=(1,)))


def test_training_crops_lie_within_the_photograph_and_reach_every_place(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:20, :24].astype(np.uint8)
    train, _ = one_photo(tmp_path, np.stack([rows, columns, rows], -1), (16, 16, 3), flip=False)
    crops = views(train, 600)
    corners = {(int(crop[0, 0, 0]), int(crop[0, 0, 1])) for crop in crops}
    assert corners == {(top, left) for top in range(5) for left in range(9)}
    expected = np.arange(16, dtype=np.uint8)
    assert all((crop[:, 0, 0] - crop[0, 0, 0] == expected).all() for crop in crops)
    assert all((crop[0, :, 1] - crop[0, 0, 1] == expected).all() for crop in crops)


def test_half_of_the_training_items_are_mirrored_and_the_same_half_when_read_again(tmp_path: Path) -> None:
    photo = noise_photo(0, 16, 16)
    train, _ = one_photo(tmp_path, photo, (16, 16, 3))
    crops = views(train, 400)
    mirrored = [bool((crop == photo[:, ::-1]).all()) for crop in crops]
    assert all(flipped or (crop == photo).all() for flipped, crop in zip(mirrored, crops, strict=True))
    assert 160 < sum(mirrored) < 240
    np.testing.assert_array_equal(crops, views(train, 400))
    never, _ = one_photo(tmp_path, photo, (16, 16, 3), flip=False)
    assert (views(never, 50) == photo).all()


def test_an_item_depends_on_seed_index_and_view_alone(folder: Path) -> None:
    train, _ = photos(folder)
    together = train.read(np.array([3, 3, 7, 7]), seed=(1, 2))
    np.testing.assert_array_equal(together[2:], train.read(np.array([7, 7]), seed=(1, 2)))
    np.testing.assert_array_equal(together[[0]], train.read(np.array([3]), seed=(1, 2)))
    seen = [together[0], together[1], *train.read(np.array([3, 3]), seed=(1, 3))]
    assert len({item.tobytes() for item in seen}) == 4


def test_several_crops_of_a_photograph_cost_one_read(folder: Path) -> None:
    train, _ = photos(folder)
    reads: list[int] = []

    class Counting:
        def __len__(self) -> int:
            return len(train.source)

        def read(self, index: int) -> bytes:
            reads.append(index)
            return train.source.read(index)

        def name(self, index: int) -> str:
            return train.source.name(index)

    items = PhotoItems(Counting(), train.shape, train.settings, augmented=True)
    items.read(np.array([3, 3, 3, 5, 5, 5]), seed=(0,))
    assert reads == [3, 5]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 40), (40, 5), (1, 1), (15, 16)])
def test_a_photograph_that_is_too_small_is_scaled_up_until_it_covers_the_item(
    height: int, width: int, tmp_path: Path
) -> None:
    grey = np.full((height, width, 3), 77, np.uint8)
    for items in one_photo(tmp_path, grey, (16, 12, 3)):
        assert (items.read(np.array([0, 0]), seed=(0,)) == np.full((2, 16, 12, 3), 77)).all()


def test_a_large_photograph_is_scaled_down_before_it_is_cropped(tmp_path: Path) -> None:
    photo = np.repeat(np.repeat(noise_photo(0, 8, 12), 8, 0), 8, 1)  # 64×96 pixels, 8×12 squares
    _, test = one_photo(tmp_path, photo, (16, 16, 3), shorter_side=16)
    expected = Image.fromarray(photo).resize((24, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(test.read(np.array([0]), seed=(0,))[0], np.asarray(expected)[:, 4:20])


def test_greyscale_becomes_rgb_and_rgb_greyscale_as_the_model_needs(tmp_path: Path) -> None:
    grey = noise_photo(0, 16, 16)[..., 0]
    items = one_photo(tmp_path, grey, (16, 16, 3), flip=False)[0].read(np.array([0]), seed=(0,))
    np.testing.assert_array_equal(items, np.repeat(grey[None, ..., None], 3, axis=-1))
    assert one_photo(tmp_path, noise_photo(0, 40, 40), (16, 16, 1), shorter_side=20)[0].read(
        np.array([0, 0]), seed=(0,)
    ).shape == (2, 16, 16, 1)


def test_jitter_changes_brightness_and_contrast_of_training_items_but_no_hue(tmp_path: Path) -> None:
    left, right = np.full((16, 8, 3), 80, np.uint8), np.full((16, 8, 3), 160, np.uint8)
    train, test = one_photo(tmp_path, np.concatenate([left, right], 1), (16, 16, 3), jitter=0.2)
    crops = views(train, 50)
    assert (crops == crops[..., :1]).all()  # what was grey still is
    assert len(np.unique(crops.mean((1, 2, 3)).round())) > 10 and len(np.unique(np.ptp(crops, axis=(1, 2, 3)))) > 10
    assert crops.mean((1, 2, 3)).min() >= 90 and crops.mean((1, 2, 3)).max() <= 150
    assert set(np.unique(views(test, 2))) == {80, 160}


def test_resized_crops_show_a_share_of_the_photograph_at_the_size_of_the_model(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:64, :96]  # each pixel says where it is
    photo = np.stack([rows, columns, columns], axis=-1).astype(np.uint8)
    items, _ = one_photo(tmp_path, photo, (16, 16, 3), flip=False, resized_crop=(0.1, 0.6))
    crops = views(items, 64).astype(float)
    assert crops.shape == (64, 16, 16, 3)
    heights = (crops[:, -1, 8, 0] - crops[:, 0, 8, 0]) * 16 / 15
    widths = (crops[:, 8, -1, 1] - crops[:, 8, 0, 1]) * 16 / 15
    shares, ratios = heights * widths / (64 * 96), widths / heights
    assert 0.08 < shares.min() < 0.2 and 0.45 < shares.max() < 0.65
    assert 0.7 < ratios.min() < 0.85 and 1.2 < ratios.max() < 1.4
    np.testing.assert_array_equal(views(items, 64), crops)


def test_a_resized_crop_of_a_photograph_that_none_fits_into_is_as_large_as_can_be(tmp_path: Path) -> None:
    strip = np.zeros((16, 256, 3), np.uint8)
    items, _ = one_photo(tmp_path, strip, (16, 16, 3), resized_crop=(0.9, 1.0))
    assert views(items, 3).shape == (3, 16, 16, 3)


@pytest.mark.parametrize("content", [b"", b"no image", encode_image(noise_photo(0))[:-200]])
def test_a_photograph_that_cannot_be_decoded_is_named(content: bytes, tmp_path: Path) -> None:
    write_tar(tmp_path / "one.tar", {"a/good.png": encode_image(noise_photo(0)), "a/bad.webp": content})
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "bad.webp").write_bytes(content)
    in_tar, *_ = open_photos(PhotosConfig("tar", ("one.tar",), ("one.tar",)), tmp_path, (16, 16, 3))
    in_folder, *_ = open_photos(PhotosConfig("folder", ("set",), ("set",)), tmp_path, (16, 16, 3))
    with pytest.raises(
        InputError, match=rf"^{tmp_path}/one\.tar, a/bad\.webp: (not|cannot|is empty)[^\n]*; expected [^\n]*$"
    ):
        in_tar.read(np.array([0, 1]), seed=(0,))
    with pytest.raises(InputError, match=rf"^{tmp_path}/set/bad\.webp: (not|cannot|is empty)[^\n]*; expected [^\n]*$"):
        in_folder.read(np.array([0]), seed=(0,))


def test_only_an_index_is_in_memory(tmp_path: Path) -> None:
    big = {f"{number:04}.png": encode_image(noise_photo(number, 128, 128)) for number in range(40)}
    size = write_tar(tmp_path / "train-0.tar", big).stat().st_size
    tracemalloc.start()
    items, *_ = open_photos(PhotosConfig(train=("train-0.tar",), test=("train-0.tar",)), tmp_path, (16, 16, 3))
    for index in range(40):
        items.read(np.array([index]), seed=(0,))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(pickle.dumps(items)) < 2500 and peak < size / 4


# --- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resized_crop": (0.5, 0.2)}, r"resized_crop must be the smallest and the largest share .*, not \[0.5, 0.2\]"),
        ({"kind": "zip"}, "data.kind must be one of tar, folder, huggingface, not 'zip'"),
        ({"train": ()}, "must name at least one source of photographs"),
        ({"test": ()}, "must name at least one source of photographs"),
        ({"crops_per_image": 0}, "data.shorter_side and data.crops_per_image must be at least 1, not 256 and 0"),
        ({"shorter_side": 0}, "data.shorter_side and data.crops_per_image must be at least 1, not 0 and 1"),
        ({"jitter": 1.0}, "data.jitter must be at least 0 and under 1, not 1.0"),
        ({"workers": -1}, "data.workers must be at least 0, not -1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_are_not_possible_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PhotosConfig(**settings)


@pytest.mark.parametrize(
    ("dataset", "model", "data", "message"),
    [
        ("mnist", MNIST, {}, "data says which photographs to use: it goes with dataset photos"),
        ("photos", TINY_GRID, None, "data says which photographs to use: it goes with dataset photos"),
        ("photos", TINY_MOTION, {}, r"dataset photos needs a model of images, not of \[4, 5\]"),
        ("photos", TINY_GRID, {"shorter_side": 15}, "data.shorter_side must be at least the 16 pixels of .*, not 15"),
        ("photos", TINY_GRID, {"crops_per_image": 3}, "batch_size must be a multiple of data.crops_per_image 3, not 8"),
    ],
    ids=["needless", "missing", "motion", "small", "crops"],
)
def test_photographs_must_fit_the_experiment(
    dataset: Any, model: TokenizerConfig, data: dict[str, Any] | None, message: str
) -> None:
    photographs = None if data is None else PhotosConfig(**data)
    with pytest.raises(ConfigError, match=message):
        Experiment("test", model, dataset, "daps", steps=1, batch_size=8, data=photographs)


# --- the photographs that come with the project


@needs_photos
def test_the_projects_photographs_are_8_000_and_1_000_and_have_the_mean_that_its_models_say() -> None:
    experiment = load_experiment(ROOT / "train" / "configs" / "photo_vqvae_64.yaml")
    assert experiment.data is not None
    train, test, _ = open_photos(experiment.data, DATA, (256, 256, 3))
    assert (len(train), len(test)) == (8000, 1000)
    sample = train.read(np.arange(0, 8000, 40), seed=(0,)) / 255
    np.testing.assert_allclose(sample.mean((0, 1, 2)), experiment.model.normalisation.mean, atol=0.02)
    np.testing.assert_allclose(sample.std((0, 1, 2)), experiment.model.normalisation.std, atol=0.02)
    crops, *_ = open_photos(experiment.data, DATA, experiment.model.input_shape)
    assert crops.read(np.repeat([5, 9], 4), seed=(0,)).shape == (8, 64, 64, 3)


def test_the_photo_tokenizer_begins_with_the_networks_of_the_paper() -> None:
    small, large = (
        load_experiment(ROOT / "train" / "configs" / f"{name}.yaml").model
        for name in ("photo_vqvae_64", "imagenet_256")
    )
    assert (small.bits_per_item, large.bits_per_item) == (640, 10240) and small.normalisation == large.normalisation
    Autoencoder(large).load_state_dict(Autoencoder(small).state_dict())
    model = Autoencoder(large)
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.recognition, model.generative)]
    assert counts == [1_211_008, 330_198]  # as the authors' code has
