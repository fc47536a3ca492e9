"""From a checkpoint to a model folder, of the MNIST setting with random weights."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import GraphProto, NodeProto, external_data_helper
from PIL import Image

from daps_tokenizer.backends.onnx import OnnxBackend
from daps_tokenizer.backends.protocol import Encoded
from daps_tokenizer.backends.torch import TorchBackend
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import InputError
from daps_tokenizer.hub import ModelFolder, open_model
from daps_tokenizer.model.autoencoder import Autoencoder, save_weights
from export.__main__ import main
from export.check import compare, encode_by_steps, encode_in_passes, load_test_inputs, random_inputs
from export.folder import config_to_export
from export.onnx_graphs import export_likelihood
from tests.conftest import exported, random_checkpoint
from tests.paths import DATA, EXAMPLES
from tests.photographs import write_photos
from tests.settings import CIFAR10, MNIST, SMALL_MOTION, TINY_GRID, TINY_SPECTRAL

GRAPHS = ("encoder", "decoder", "scorer", "likelihood", "encoder_context", "encoder_pass", "encoder_step")


@pytest.fixture(scope="module")
def folder(random_mnist_folder: Path) -> ModelFolder:
    return open_model(random_mnist_folder)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def graph(folder: ModelFolder, name: str) -> GraphProto:
    return onnx.load(folder.path / "onnx" / f"{name}.onnx", load_external_data=False).graph


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from all_nodes(attribute.g)


def uniform(count: int, config: TokenizerConfig = MNIST) -> np.ndarray:
    return np.random.default_rng(1).random((count, config.num_tokens), dtype=np.float32)


def test_a_model_folder_holds_these_files_and_lists_the_sha256_of_each(folder: ModelFolder) -> None:
    expected = {"model.safetensors", "onnx/weights.bin", *(f"onnx/{name}.onnx" for name in GRAPHS)}
    found = {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_file()}
    assert found == expected | {"config.json", "README.md"} and set(folder.config.files) == expected
    for name, sha256 in folder.config.files.items():
        assert hashlib.sha256((folder.path / name).read_bytes()).hexdigest() == sha256


def test_the_config_is_the_checkpoints_with_the_new_name_and_the_training_record(folder: ModelFolder) -> None:
    expected = dataclasses.replace(MNIST, name="random-mnist", training={"steps": 0}, files=folder.config.files)
    assert folder.config == expected
    assert (folder.path / "README.md").read_text() == "# Random weights\n"


def test_everybody_may_read_the_files(folder: ModelFolder) -> None:
    assert all((folder.path / name).stat().st_mode & 0o444 == 0o444 for name in folder.config.files)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_is_valid_and_loads_without_a_warning(
    folder: ModelFolder, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = folder.path / "onnx" / f"{name}.onnx"
    onnx.checker.check_model(path, full_check=True)
    onnxruntime.InferenceSession(path)
    assert capfd.readouterr().err == ""


def test_all_graphs_share_one_copy_of_the_weights(folder: ModelFolder) -> None:
    places: dict[tuple[int, int], str] = {}
    for tensor in (tensor for name in GRAPHS for tensor in graph(folder, name).initializer):
        if not external_data_helper.uses_external_data(tensor):
            assert tensor.ByteSize() < 1100, f"{tensor.name} is stored in a graph"
            continue
        info = external_data_helper.ExternalDataInfo(tensor)
        assert info.location == "weights.bin"
        places[info.offset, info.length] = tensor.name
    ends = [0, *(sum(place) for place in sorted(places))]
    assert all(end <= offset for end, (offset, _) in zip(ends, sorted(places), strict=False))
    weights, original = (folder.path / name for name in ("onnx/weights.bin", "model.safetensors"))
    assert weights.stat().st_size < 1.05 * original.stat().st_size


def test_no_graph_transposes_a_weight_when_it_runs(folder: ModelFolder) -> None:
    for made in (graph(folder, name) for name in GRAPHS):
        weights = {tensor.name for tensor in made.initializer}
        for node in all_nodes(made):
            assert not (node.op_type == "Transpose" and node.input[0] in weights)
            assert not (node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute))


def test_no_graph_tells_where_it_was_exported(folder: ModelFolder) -> None:
    for name in GRAPHS:
        content = (folder.path / "onnx" / f"{name}.onnx").read_bytes()
        assert b".py" not in content and str(Path.cwd()).encode() not in content


def test_the_loops_of_the_encoder_hold_no_weights(folder: ModelFolder) -> None:
    loops = [node for node in all_nodes(graph(folder, "encoder")) if node.op_type == "Loop"]
    assert [loop.name for loop in loops] == ["spans", "more_passes"]
    bodies = [attribute.g for loop in loops for attribute in loop.attribute if attribute.name == "body"]
    assert not any(body.initializer for body in bodies)


def test_every_graph_says_what_it_is_and_what_goes_in_and_out(folder: ModelFolder) -> None:
    for name in GRAPHS:
        model = onnx.load(folder.path / "onnx" / f"{name}.onnx", load_external_data=False)
        assert model.doc_string and all(value.doc_string for value in [*model.graph.input, *model.graph.output])
        assert {entry.key: entry.value for entry in model.metadata_props}["model"] == "random-mnist"


def test_the_graphs_for_tensorrt_have_no_attention_operator_and_no_control_flow(folder: ModelFolder) -> None:
    for name in ("encoder_context", "encoder_pass", "encoder_step"):
        assert not {"Attention", "Loop", "If"} & {node.op_type for node in graph(folder, name).node}


@pytest.mark.parametrize("encode", [encode_by_steps, encode_in_passes])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_graphs_for_gpus_give_the_codes_of_the_encoder(
    folder: ModelFolder, temperature: float, encode: Callable[..., Encoded]
) -> None:
    images = random_inputs(MNIST, 8)
    outside = encode(folder, images, uniform(8), temperature)
    whole = OnnxBackend.open(folder).encode(images, uniform(8), temperature)
    np.testing.assert_array_equal(outside.codes, whole.codes)
    np.testing.assert_allclose(outside.log_probs, whole.log_probs, atol=1e-5)


def test_the_likelihood_of_wrong_pixels_is_finite_where_the_model_is_all_but_certain() -> None:
    torch.manual_seed(0)
    model = Autoencoder(MNIST).eval()
    images, codes = random_inputs(MNIST, 2), np.zeros((2, MNIST.num_tokens), np.int32)
    with torch.no_grad():
        model.generative.output.weight.mul_(50.0)  # logits of up to ±100
        expected = model.log_likelihood(model.standardise(torch.from_numpy(images)), torch.from_numpy(codes))
    session = onnxruntime.InferenceSession(export_likelihood(model).SerializeToString())
    cells = session.run(["log_likelihood"], {"images": images, "codes": codes[:, None]})[0]
    np.testing.assert_allclose(cells.sum((1, 2)), expected, rtol=1e-5)


def test_a_checkpoint_without_a_file_or_with_a_damaged_one_is_refused(
    random_mnist_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    result = run("onnx", tmp_path / "empty", tmp_path / "out")
    assert result.exit_code == 2 and result.output.startswith(f"error: {tmp_path / 'empty'} has no config.json")
    damaged = Path(shutil.copytree(random_mnist_checkpoint, tmp_path / "damaged"))
    (damaged / "training.json").write_text("{")
    result = run("onnx", damaged, tmp_path / "out")
    assert result.exit_code == 2 and "training.json: not valid JSON" in result.output
    (damaged / "training.json").unlink()
    (damaged / "model.safetensors").write_bytes(b"not weights")
    result = run("onnx", damaged, tmp_path / "out")
    assert result.exit_code == 2 and "model.safetensors: not the weights of mnist" in result.output
    assert not (tmp_path / "out").exists()


def test_a_model_card_that_is_not_there_is_refused(random_mnist_checkpoint: Path, tmp_path: Path) -> None:
    result = run("onnx", random_mnist_checkpoint, tmp_path / "out", "--readme", tmp_path / "card.md")
    assert result.exit_code == 2 and "card.md: no such file; expected a model card" in result.output


def test_a_folder_that_exists_is_replaced_only_by_force_and_only_if_it_is_a_model(
    random_mnist_checkpoint: Path, random_mnist_folder: Path, tmp_path: Path
) -> None:
    result = run("onnx", random_mnist_checkpoint, random_mnist_folder)
    assert result.exit_code == 2 and "already exists; choose another folder or pass --force" in result.output
    (tmp_path / "thesis.txt").write_text("years of work")
    result = run("onnx", random_mnist_checkpoint, tmp_path, "--force")
    assert result.exit_code == 2 and "was not exported (no onnx in it), so --force does not replace it" in result.output
    assert (tmp_path / "thesis.txt").exists()
    result = run("onnx", random_mnist_checkpoint, random_mnist_checkpoint, "--force")
    assert result.exit_code == 2 and "was not exported" in result.output
    assert (random_mnist_checkpoint / "model.safetensors").is_file()


def test_check_reports_agreement_on_the_images_that_are_named(random_mnist_folder: Path, tmp_path: Path) -> None:
    write_photos(tmp_path)
    images, report_file = tmp_path / "train-0.tar", tmp_path / "report.json"
    result = run("check", random_mnist_folder, "--images", images, "--items", "4", "--json", report_file)
    assert result.exit_code == 0 and "greedy codes equal" in result.output
    report = json.loads(report_file.read_text())
    assert report["passed"] and report["num_items"] == 4 and report["greedy_codes_equal"] > 0.99
    assert report["command"].endswith("--images train-0.tar --items 4")
    assert str(tmp_path) not in json.dumps(report) and str(random_mnist_folder) not in json.dumps(report)


def test_check_without_images_says_how_to_name_some(random_mnist_folder: Path) -> None:
    result = run("check", random_mnist_folder)
    assert result.exit_code == 2
    assert "random-mnist: its record names no data that it was trained on; name some with --images" in result.output


def test_a_comparison_fails_where_the_graphs_hold_other_weights(folder: ModelFolder, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder.path, tmp_path / "other"))
    weights = np.fromfile(other / "onnx" / "weights.bin", np.float32) * 1.01
    weights.tofile(other / "onnx" / "weights.bin")
    sha256 = hashlib.sha256(weights.tobytes()).hexdigest()
    config = dataclasses.replace(folder.config, files=folder.config.files | {"onnx/weights.bin": sha256})
    report = compare(ModelFolder(other, config), random_inputs(MNIST, 16))
    assert not report.passed and report.greedy_items_equal < 1
    first = report.first_differences[0]
    assert f"encoder.onnx: item {first.item} differs first at code {first.position}" in report.failures[0]
    for graph_name in ("encoder_step.onnx", "scorer.onnx", "likelihood.onnx", "decoder.onnx"):
        assert any(graph_name in failure for failure in report.failures)


def test_a_model_folder_does_not_say_where_on_this_machine_its_images_were(
    random_mnist_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = Path(shutil.copytree(random_mnist_checkpoint, tmp_path / "checkpoint"))
    data = {"kind": "folder", "train": ["/home/somebody/birds"], "test": ["../shared/val"]}
    before = {"experiment": {"start_from": "/home/somebody/runs/first/checkpoint"}}
    record = {"steps": 0, "experiment": {"data": data, "start_from": None}, "stages_before": [before]}
    (checkpoint / "training.json").write_text(json.dumps(record))
    training = config_to_export(checkpoint).training
    assert training["experiment"]["data"]["train"] == ["birds"]
    assert training["experiment"]["data"]["test"] == ["../shared/val"]
    assert training["stages_before"][0]["experiment"]["start_from"] == "checkpoint"


def trained_on(config: TokenizerConfig, **experiment: Any) -> TokenizerConfig:
    return dataclasses.replace(config, training={"experiment": experiment})


def test_a_model_is_compared_on_the_test_items_that_its_record_names(tmp_path: Path) -> None:
    write_photos(tmp_path)
    data = {"kind": "tar", "train": ["train-*.tar"], "test": ["val.tar"]}
    images = load_test_inputs(trained_on(TINY_GRID, dataset="photos", data=data), tmp_path, 3)
    assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8


def test_a_model_is_compared_on_the_images_that_are_given(tmp_path: Path) -> None:
    write_photos(tmp_path)
    assert load_test_inputs(TINY_GRID, source=tmp_path / "val.tar").shape[1:] == (16, 16, 3)
    assert load_test_inputs(SMALL_MOTION, source=EXAMPLES / "walk.csv", count=2).shape == (2, 32, 127)


def test_a_model_whose_data_is_not_there_or_not_known_asks_for_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mnist: its record names no data .*; name some with --images"):
        load_test_inputs(MNIST, tmp_path, 5)
    for config in (MNIST, CIFAR10):
        expected = f"{config.name}: no test items .*; name some with --images, or their folder with --data"
        with pytest.raises(InputError, match=expected):
            load_test_inputs(trained_on(config, dataset=config.name), tmp_path, 5)


@pytest.mark.skipif(not (DATA / "cifar10").exists(), reason="needs cifar10 in ../shared/data or $DAPS_DATA")
def test_cifar10_test_images_are_cut_from_the_mosaics_row_by_row() -> None:
    images = load_test_inputs(trained_on(CIFAR10, dataset="cifar10"), DATA, 1001)
    assert images.shape == (1001, 32, 32, 3) and images.dtype == np.uint8
    first, second = (np.asarray(Image.open(DATA / "cifar10" / f"test_0{i}.webp").convert("RGB")) for i in (0, 1))
    np.testing.assert_array_equal(images[41], first[32:64, 32:64])
    np.testing.assert_array_equal(images[1000], second[:32, :32])


@pytest.fixture(scope="module")
def spectral_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = random_checkpoint(TINY_SPECTRAL, tmp_path_factory.mktemp("checkpoint"))
    model = Autoencoder(TINY_SPECTRAL)
    torch.nn.init.normal_(model.autoregressive.code_books.table)
    save_weights(model, checkpoint / "model.safetensors")
    return exported(checkpoint, "random-spectral", tmp_path_factory)


@pytest.fixture(
    scope="module",
    params=["random_grid_folder", "random_motion_folder", pytest.param("spectral_folder", marks=pytest.mark.slow)],
)
def other(request: pytest.FixtureRequest) -> ModelFolder:
    return open_model(request.getfixturevalue(request.param))


def test_other_networks_encode_as_torch_does(other: ModelFolder) -> None:
    inputs, numbers = random_inputs(other.config, 20), uniform(20, other.config)
    for temperature in (0.0, 1.0):
        ours = TorchBackend.open(other, num_threads=1).encode(inputs, numbers, temperature)
        theirs = OnnxBackend.open(other).encode(inputs, numbers, temperature)
        np.testing.assert_array_equal(ours.codes, theirs.codes)
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=1e-4)
