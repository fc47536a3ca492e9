"""Generated images are measured: distances are what they are defined as, and a table is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.generate.distances import Moments, frechet_distance, kernel_distance, nearest, precision_and_recall
from benchmarks.studies.masked import euler_codes, masked_codes
from daps_tokenizer.config.generator import GeneratorConfig
from daps_tokenizer.data.code_sets import CodeSet
from daps_tokenizer.evaluation import perceptual
from daps_tokenizer.model.autoencoder import load_weights
from daps_tokenizer.model.generators import FlowTransformer, build_generator
from tests.cli.helpers import digit


def flow(folder: Path) -> FlowTransformer:
    network = build_generator(GeneratorConfig.from_file(folder / "config.json")).eval()
    assert isinstance(network, FlowTransformer)
    load_weights(network, folder / "model.safetensors")
    return network


def write_digits(folder: Path) -> None:
    images = np.stack([np.asarray(digit(seed)) for seed in range(150)])
    labels = (np.arange(150) % 2).astype(np.uint8)
    np.savez(folder / "mnist.npz", x_train=images, y_train=labels, x_test=images[:40], y_test=labels[:40])


def normal(mean: float, scale: float, count: int = 4000, size: int = 3) -> np.ndarray:
    return mean + scale * np.random.default_rng(0).standard_normal((count, size))


def test_the_frechet_distance_of_normal_features_is_that_of_their_moments() -> None:
    ours, others = (
        Moments(np.zeros(3), np.diag([1.0, 4.0, 9.0])),
        Moments(np.array([1.0, 0, 0]), np.diag([4.0, 4.0, 1.0])),
    )
    assert frechet_distance(ours, others) == pytest.approx(1 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2)
    assert frechet_distance(ours, ours) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(Moments.of(normal(0, 1)), Moments.of(normal(2, 1))) == pytest.approx(12, abs=1e-6)


def test_the_kernel_distance_of_equal_laws_is_zero_and_grows_with_the_difference() -> None:
    features = np.random.default_rng(1).standard_normal((2000, 4))
    assert abs(kernel_distance(features[:1000], features[1000:])) < 0.02
    assert kernel_distance(features[:1000], features[1000:] + 1) > 0.5


def test_precision_and_recall_tell_a_few_modes_from_all_of_them() -> None:
    rng = np.random.default_rng(0)
    modes = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
    real = np.concatenate([mode + rng.standard_normal((100, 2)) for mode in modes])
    one_mode, everywhere = rng.standard_normal((400, 2)), rng.uniform(-40, 50, (400, 2))
    precision, recall = precision_and_recall(one_mode, real)
    assert precision > 0.8 and 0.2 < recall < 0.3
    precision, recall = precision_and_recall(everywhere, real)
    assert precision < 0.2


def test_a_copy_of_a_training_image_is_found() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), np.uint8)
    found = nearest(images[[3, 7]] ^ np.uint8(1), images, at_once=6)
    assert found == pytest.approx([1, 1])


class DifferenceOfMeans:
    """In place of FID, whose weights are not here."""

    def __init__(self) -> None:
        self.of = {True: [], False: []}

    def update(self, images: torch.Tensor, *, real: bool) -> None:
        assert images.shape[1:] == (3, 28, 28) and images.dtype == torch.uint8
        self.of[real].append(images.float())

    def compute(self) -> torch.Tensor:
        real, others = (torch.cat(self.of[name]) for name in (True, False))
        assert len(real) == len(others) == 20
        return (real.mean() - others.mean()).abs()


def test_the_command_writes_a_table(
    random_generators: dict[str, Path], random_mnist_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(tmp_path)
    monkeypatch.setattr(perceptual, "_load_fid", lambda weights: DifferenceOfMeans())
    options = {"items": 20, "sweep-items": 10, "epochs": 1, "tokenizer": random_mnist_folder, "data": tmp_path}
    options |= {"cache": tmp_path / "cache", "out": tmp_path / "out"}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    result = CliRunner().invoke(main, ["generate", *map(str, random_generators.values()), "--fid", *arguments])
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out" / "generate_random-mnist.json").read_text())
    names = [row["images"] for row in content["rows"]]
    assert names[:-1] == [
        "real, test set",
        "their reconstructions",
        "random-flow, guidance 0.5",
        "random-causal, guidance 0.5",
    ]
    assert content["rows"][3]["bits_per_item"] > 0 and content["rows"][4]["bits_per_item"] == pytest.approx(64)
    assert content["rows"][4]["accuracy"] is None and 0 <= content["rows"][2]["accuracy"] <= 1
    assert len(content["sweeps"]) == 3 + 4 + 4
    assert all(row["fid"] >= 0 for row in content["rows"]) and "fid" not in content["sweeps"][0]
    assert "| random-flow, guidance 0.5 | 20 |" in (tmp_path / "out" / "generate_random-mnist.md").read_text()
    assert CliRunner().invoke(main, ["generate", "daps-mnist-flow", str(random_generators["flow"])]).exit_code == 2


def test_generators_are_trained_on_codes_of_a_tokenizer_and_measured_once(
    random_mnist_folder: Path, tmp_path: Path
) -> None:
    write_digits(tmp_path)
    config = Path(__file__).parents[2] / "train" / "configs" / "generators" / "mnist_causal.yaml"
    options = {"items": 20, "data": tmp_path, "work": tmp_path / "work", "out": tmp_path / "out", "generator": config}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    for setting in ("steps=2", "batch_size=8", "precision=fp32", "validation_items=4", "network.num_layers=1"):
        arguments += ["--set", setting]
    command = [
        "modelling",
        "--tokenizer",
        f"a folder={random_mnist_folder}",
        "--samples",
        "0",
        "--samples",
        "2",
        *arguments,
    ]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    found, sampled = json.loads((tmp_path / "out" / "modelling_mnist.json").read_text())["results"]
    assert [row["images"] for row in found["rows"]] == ["reconstructions", "causal, guidance 0", "causal, guidance 1"]
    assert found["rows"][1]["bits_per_item"] > 0 and found["rows"][0]["psnr"] > 0
    assert all(row["own_frechet"] >= 0 for row in found["rows"])
    page = (tmp_path / "out" / "modelling_mnist.md").read_text()
    assert "| a folder | causal, guidance 1 |" in page and "weights " + found["weights_sha256"][:12] in page
    assert sampled["tokenizer"] == "a folder, 2 sampled" and sampled["rows"][1]["bits_per_item"] > 0
    assert CodeSet.open(tmp_path / "work" / "a-folder-2-sampled" / "codes").values.shape[1:] == (2, 8)
    measured = tmp_path / "work" / "a-folder" / "mnist_causal.json"
    measured.write_text(json.dumps(found | {"bits": 5}))
    assert CliRunner().invoke(main, command).exit_code == 0
    assert "a folder: 5 bits" in (tmp_path / "out" / "modelling_mnist.md").read_text()
    others = CliRunner().invoke(main, [*command, "--items", "10"])
    assert others.exit_code == 2 and "was measured with other settings" in others.output
    assert CliRunner().invoke(main, ["modelling", "--tokenizer", "nothing", *arguments]).exit_code == 2


def test_one_step_by_confidence_is_one_euler_step(random_generators: dict[str, Path]) -> None:
    """Both draw every code from what the network says of noise."""
    network = flow(random_generators["flow"])
    labels, guidance = torch.tensor([[0, 1, 1], [2, 2, 2]]), torch.tensor(0.5)
    found = [
        draw(torch.Generator().manual_seed(3))
        for draw in (
            lambda random: euler_codes(network, labels, guidance, 1, random),
            lambda random: masked_codes(network, labels, guidance, 1, 4.0, random),
        )
    ]
    assert torch.equal(*found)


def test_more_codes_are_kept_in_every_step_the_surest_first(random_generators: dict[str, Path]) -> None:
    network, seen = flow(random_generators["flow"]), []

    def sure_of_the_sixth(module: FlowTransformer, inputs: tuple[Any, ...], logits: torch.Tensor) -> torch.Tensor:
        seen.append((inputs[0].clone(), float(inputs[1][0])))
        logits[:, 5, 7] = 50.0
        return logits

    network.register_forward_hook(sure_of_the_sixth)
    labels = torch.zeros(1, 50, dtype=torch.int64)
    with torch.no_grad():
        codes = masked_codes(network, labels, torch.tensor(0.0), 8, 0.0, torch.Generator().manual_seed(0))
    assert [time for _, time in seen] == [step / 8 for step in range(8)]
    assert all(((given == codes).sum(1) >= step).all() for step, (given, _) in enumerate(seen))
    assert (seen[1][0][:, 5] == 7).all() and (seen[0][0][:, 5] != 7).any()


def test_drawing_by_confidence_is_measured_beside_euler_steps(
    random_generators: dict[str, Path], random_mnist_folder: Path, tmp_path: Path
) -> None:
    write_digits(tmp_path)
    options = {"items": 20, "epochs": 1, "tokenizer": random_mnist_folder, "data": tmp_path, "steps": 2, "noise": 1}
    options |= {"cache": tmp_path / "cache", "out": tmp_path / "out"}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    result = CliRunner().invoke(main, ["masked", str(random_generators["flow"]), *arguments])
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out" / "masked_random-flow.json").read_text())
    assert [row["images"] for row in content["rows"]] == ["Euler steps", "by confidence, noise 1"]
    assert "| by confidence, noise 1 | 2 |" in (tmp_path / "out" / "masked_random-flow.md").read_text()
    refused = CliRunner().invoke(main, ["masked", str(random_generators["causal"]), *arguments])
    assert refused.exit_code == 2 and "is causal; only a flow draws codes in any order" in refused.output
