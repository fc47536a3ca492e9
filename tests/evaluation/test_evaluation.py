"""Evaluation: every item by itself, the same numbers for training and for the tokenizer that users run."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from daps_tokenizer import BestOf, LocalSearch, Tokenizer
from daps_tokenizer.backends.onnx import OnnxBackend
from daps_tokenizer.backends.protocol import CellLikelihood
from daps_tokenizer.data.datasets import ArrayData, Data, open_data
from daps_tokenizer.errors import InputError
from daps_tokenizer.evaluation.evaluate import BATCH, describe_protocol, evaluate, measure, ways_to_encode
from daps_tokenizer.evaluation.metrics import psnr
from daps_tokenizer.hub import open_model
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights
from tests.photographs import encode_image, noise_photo, write_tar
from tests.settings import CIFAR10, MNIST, TINY_GRID
from tests.test_tokenizer import digits
from train.evaluate import evaluate as evaluate_in_training
from train.items import ArrayItems
from train.methods.base import TrainedModel


@pytest.fixture(scope="module")
def tok(random_mnist_folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(random_mnist_folder)


def data(count: int = 6) -> ArrayData:
    return ArrayData(digits(count), "digits")


def test_every_item_has_the_values_that_the_tokenizer_gives_for_it_alone(tok: Tokenizer) -> None:
    found = evaluate(tok, data(), ways_to_encode(tok))["greedy"]
    for index, image in enumerate(digits(6)):
        codes = tok.encode(image)
        np.testing.assert_array_equal(found.codes[index], codes.numpy()[0])
        assert found.items["log_p"][index] == pytest.approx(tok.likelihood(image, codes).log_likelihood[0], rel=1e-5)
        assert found.items["log_q"][index] == pytest.approx(tok.log_prob(image, codes)[0], rel=1e-5)
        assert found.items["l2"][index] ** 2 == pytest.approx(tok.likelihood(image, codes).squared_error[0], rel=1e-5)
        assert found.items["psnr"][index] == pytest.approx(psnr(tok.targets(image), tok.decode(codes))[0], rel=1e-3)


class CountingBackend(OnnxBackend):
    """Counts how often graphs are run."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.calls: Counter[str] = Counter()

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        self.calls["reconstruct"] += 1
        return super().reconstruct(codes)

    def likelihood(self, inputs: np.ndarray, codes: np.ndarray) -> CellLikelihood:
        self.calls["likelihood"] += 1
        return super().likelihood(inputs, codes)


def test_measuring_runs_each_graph_once(random_mnist_folder: Path) -> None:
    folder = open_model(random_mnist_folder)
    backend = CountingBackend.open(folder)
    tok = Tokenizer(folder, backend)
    codes = tok.encode(digits(6))
    measure(tok, digits(6), codes)
    assert isinstance(backend, CountingBackend) and backend.calls == {"likelihood": 1, "reconstruct": 1}


def test_the_ways_to_encode_are_the_tokenizers_own(tok: Tokenizer) -> None:
    searches = {"searched": LocalSearch(proposals=1)}
    found = evaluate(tok, data(), ways_to_encode(tok, best_of=(3,), searches=searches), seed=5)
    images = digits(6)
    np.testing.assert_array_equal(found["sampled"].codes, tok.sample(images, seed=5).numpy()[:, 0])
    np.testing.assert_array_equal(found["best of 3"].codes, tok.encode(images, search=BestOf(3, seed=5)).numpy())
    np.testing.assert_array_equal(found["searched"].codes, tok.encode(images, search=searches["searched"]).numpy())


def test_batches_are_put_together_in_order_and_drawn_with_seeds_of_their_own(tok: Tokenizer) -> None:
    count = BATCH + 3
    done: list[int] = []
    found = evaluate(tok, data(count), ways_to_encode(tok), seed=1, on_progress=done.append)
    assert done == [BATCH, count]
    assert found["greedy"].codes.shape == (count, 8) and found["greedy"].items["psnr"].shape == (count,)
    last = tok.sample(digits(count)[BATCH:], seed=2).numpy()[:, 0]
    np.testing.assert_array_equal(found["sampled"].codes[BATCH:], last)


def test_the_summary_is_means_with_intervals_and_code_usage(tok: Tokenizer) -> None:
    found = evaluate(tok, data(), ways_to_encode(tok))["sampled"]
    summary = found.summary(tok.vocab_size, seed=0)
    for name, values in found.items.items():
        assert summary[name]["mean"] == pytest.approx(values.mean())
        assert summary[name]["low"] <= summary[name]["mean"] <= summary[name]["high"]
    assert summary["codes_used"] + summary["dead_codes"] == tok.vocab_size
    assert summary["codes_used"] == len(np.unique(found.codes))


def test_what_observes_sees_originals_and_reconstructions_and_adds_metrics(tok: Tokenizer) -> None:
    def observe(way: str, original: np.ndarray, reconstruction: np.ndarray) -> dict[str, np.ndarray]:
        return {"mine": psnr(original, reconstruction) + (1000 if way == "sampled" else 0)}

    for way, each in evaluate(tok, data(), ways_to_encode(tok), observe=observe).items():
        expected = each.items["psnr"] + (1000 if way == "sampled" else 0)
        np.testing.assert_allclose(each.items["mine"], expected)


def test_training_measures_the_same_as_the_exported_tokenizer(tok: Tokenizer, random_mnist_checkpoint: Path) -> None:
    model = Autoencoder(tok.config)
    load_weights(model, random_mnist_checkpoint / "model.safetensors")
    in_training = evaluate_in_training(TrainedModel(model), ArrayItems(digits(20)))
    images = digits(20)
    exported = measure(tok, images, tok.encode(images))
    for name in ("log_p", "l2", "psnr", "ssim"):
        assert in_training[f"greedy_{name}"] == pytest.approx(exported[name].mean(), rel=1e-3)
    uniform = torch.rand(20, 8, generator=torch.Generator().manual_seed(0))
    model.eval()
    sampled = TrainedModel(model).encode(model.standardise(torch.from_numpy(images)), uniform, 1.0)
    assert in_training["codes_used"] == len(sampled.codes.unique())
    assert in_training["entropy"] == pytest.approx(-float(sampled.log_probs.sum(1).mean()), rel=1e-4)


def test_the_protocol_names_all_that_a_result_depends_on(tok: Tokenizer) -> None:
    protocol = describe_protocol(tok, data(), seed=3)
    assert protocol["weights_sha256"] == tok.config.weights_sha256
    assert (protocol["items"], protocol["seed"], protocol["data"]) == (6, 3, "digits")
    assert {"date", "processor", "numpy", "onnxruntime"} <= protocol["machine"].keys()


# --- where the items come from


def all_items(found: Data) -> np.ndarray:
    return found.read(np.arange(len(found)))


def test_mnist_is_fitted_to_models_of_other_sizes_and_comes_with_labels(tmp_path: Path) -> None:
    images = digits(4)[..., 0]
    labels = np.array([3, 1, 4, 1], np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=images, y_train=labels, x_test=images[::-1], y_test=labels[::-1])
    found = open_data(tmp_path / "mnist.npz", MNIST, limit=3)
    np.testing.assert_array_equal(all_items(found), images[::-1][:3, ..., None])
    assert found.labels is not None and found.labels.tolist() == [1, 4, 1] and found.description == "mnist.npz, test"
    assert all_items(open_data(tmp_path / "mnist.npz", CIFAR10, split="train")).shape == (4, 32, 32, 3)


def test_images_of_a_folder_and_of_a_tar_file_are_the_same_items(tmp_path: Path) -> None:
    photos = {f"{name}.png": encode_image(noise_photo(seed)) for seed, name in enumerate("ba")}
    folder = tmp_path / "images"
    folder.mkdir()
    for name, content in photos.items():
        (folder / name).write_bytes(content)
    write_tar(tmp_path / "images.tar", dict(sorted(photos.items())))
    found = [open_data(path, TINY_GRID, fit="stretch") for path in (folder, tmp_path / "images.tar")]
    np.testing.assert_array_equal(*(all_items(each) for each in found))
    size = len(photos["a.png"])
    assert [next(iter(each.entries())) for each in found] == [("images/a.png", size), ("images.tar, a.png", size)]


def test_what_is_no_dataset_or_damaged_is_named(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("none")
    for path, reason in (
        (tmp_path / "none", "no such file or folder, or nothing in it; expected files, a folder or a pattern"),
        (text, "holds no images; expected files named"),
        (tmp_path / "none.npz", "no such file; expected the Keras archive"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            open_data(path, TINY_GRID)
        assert str(caught.value).startswith(str(path))
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (20, 20)).save(folder / "a.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:30])
    found = open_data(folder, TINY_GRID)
    with pytest.raises(InputError, match=rf"^{folder / 'b.png'}: "):
        all_items(found)
