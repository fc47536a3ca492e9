"""Models that encode in one pass are tokenizers like any other, as far as they have what is asked for."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from daps_tokenizer import Tokenizer
from daps_tokenizer.backends import onnx as onnx_backend
from daps_tokenizer.backends.onnx import OnnxBackend
from daps_tokenizer.backends.tensorrt import TensorRTBackend
from daps_tokenizer.backends.torch import TorchBackend
from daps_tokenizer.errors import BackendError, UnsupportedError
from daps_tokenizer.evaluation.evaluate import measure, ways_to_encode
from daps_tokenizer.hub import ModelFolder, open_model
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.search.best_of import BestOf
from daps_tokenizer.search.local import LocalSearch
from export.__main__ import main
from export.check import compare, random_inputs
from export.differences import choice_gap
from export.folder import export_folder
from tests.cli.helpers import digit, refusal, run_well
from tests.conftest import random_checkpoint
from tests.settings import TINY_GRID, TINY_MLP, of_kind

KINDS = ("independent", "nearest", "levels")
QUANTISERS = pytest.mark.parametrize("kind", ["nearest", "levels"])


def checkpoint(kind: str, folder: Path) -> Path:
    random_checkpoint(dataclasses.replace(of_kind(TINY_MLP, kind), name=f"tiny-{kind}"), folder)
    (folder / "training.json").unlink()
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelFolder]:
    root = tmp_path_factory.mktemp("kinds")
    return {kind: export_folder(checkpoint(kind, root / f"{kind}-run"), root / kind) for kind in KINDS}


IMAGES = random_inputs(TINY_MLP, 6)


def test_force_replaces_a_model_and_the_same_checkpoint_gives_the_same_files(
    folders: dict[str, ModelFolder], tmp_path: Path
) -> None:
    folder = folders["independent"]
    out = Path(shutil.copytree(folder.path, tmp_path / "out"))
    (out / "config.json").write_text("an older model")
    result = CliRunner().invoke(main, ["onnx", str(folder.path.with_name("independent-run")), str(out), "--force"])
    assert result.exit_code == 0 and "encoder.onnx" in result.output
    assert open_model(out).config == folder.config
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_pass_gives_the_codes_that_torch_gives(
    folders: dict[str, ModelFolder], kind: str, temperature: float
) -> None:
    uniform = np.random.default_rng(0).random((6, 8), dtype=np.float32)
    ours, theirs = (b.open(folders[kind]).encode(IMAGES, uniform, temperature) for b in (TorchBackend, OnnxBackend))
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=1e-5)
    assert "Loop" not in {node.op_type for node in onnx.load(folders[kind].path / "onnx" / "encoder.onnx").graph.node}


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_passes_and_the_card_says_what_it_is(folders: dict[str, ModelFolder], kind: str) -> None:
    assert compare(folders[kind], IMAGES).passed
    card = (folders[kind].path / "README.md").read_text()
    expected = {"independent": "Factorised", "nearest": "VQ-VAE", "levels": "FSQ"}[kind]
    assert expected in card and "Autoregressive" not in card


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_the_tokenizer_runs_them_unchanged(folders: dict[str, ModelFolder], kind: str, backend: str) -> None:
    tok = Tokenizer.from_pretrained(folders[kind].path, backend=backend)  # type: ignore[arg-type]
    codes = tok.encode(IMAGES)
    assert codes.shape == (6, 8) and tok.decode(codes).shape == (6, 28, 28, 1)
    assert np.isfinite(tok.likelihood(IMAGES, codes).log_likelihood).all()
    found = measure(tok, IMAGES, codes)
    assert ("log_q" in found) == (kind == "independent")
    assert set(ways_to_encode(tok)) == ({"greedy", "sampled"} if kind == "independent" else {"greedy"})


def test_factorised_codes_have_the_probabilities_they_are_drawn_with(folders: dict[str, ModelFolder]) -> None:
    tok = Tokenizer.from_pretrained(folders["independent"].path)
    codes = tok.sample(IMAGES, num_samples=3, seed=1)
    model = TorchBackend.open(folders["independent"]).model
    context = model.recognition.context(model.standardise(torch.tensor(IMAGES)))
    log_q = model.recognition.log_prob(context, torch.tensor(codes.numpy().reshape(18, 8)))
    np.testing.assert_allclose(tok.log_prob(IMAGES, codes), log_q.sum(1).numpy().reshape(6, 3), atol=1e-4)
    best = tok.encode(IMAGES, search=BestOf(3))
    assert (
        tok.likelihood(IMAGES, best).log_likelihood >= tok.likelihood(IMAGES, tok.encode(IMAGES)).log_likelihood - 1e-3
    ).all()


@QUANTISERS
@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_what_needs_probabilities_is_refused_by_a_quantiser(
    folders: dict[str, ModelFolder], kind: str, backend: str
) -> None:
    tok = Tokenizer.from_pretrained(folders[kind].path, backend=backend)  # type: ignore[arg-type]
    message = rf"tiny-{kind} is a quantiser \(recognition\.kind {kind}\): its codes have no probabilities"
    for refused in (
        lambda: tok.sample(IMAGES),
        lambda: tok.log_prob(IMAGES, tok.encode(IMAGES)),
        lambda: tok.encode(IMAGES, search=BestOf(4)),
        lambda: tok.encode(IMAGES, search=LocalSearch()),
        lambda: ways_to_encode(tok, best_of=(4,)),
    ):
        with pytest.raises(UnsupportedError, match=message):
            refused()


@QUANTISERS
def test_evaluating_sampled_codes_of_a_quantiser_is_refused_and_greedy_codes_are_evaluated(
    folders: dict[str, ModelFolder], kind: str, tmp_path: Path
) -> None:
    digit().save(tmp_path / "digit.png")
    message = refusal("evaluate", folders[kind].path, tmp_path, "--codes", "sampled")
    assert message.startswith(f"tiny-{kind} is a quantiser") and "have no probabilities" in message
    content = json.loads(run_well("evaluate", folders[kind].path, tmp_path, "--json").stdout)
    assert list(content["results"]) == ["greedy"]


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_on_a_gpu_encodes_in_one_pass_as_on_the_cpu(
    folders: dict[str, ModelFolder], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs on a GPU, with the provider of the CPU: such models have no step to capture."""
    uniform = np.random.default_rng(0).random((6, 8), dtype=np.float32)
    expected = OnnxBackend.open(folders[kind]).encode(IMAGES, uniform, 1.0)
    monkeypatch.setitem(onnx_backend._PROVIDERS, "cuda", "CPUExecutionProvider")
    encoded = OnnxBackend.open(folders[kind], device="cuda").encode(IMAGES, uniform, 1.0)
    np.testing.assert_array_equal(encoded.codes, expected.codes)
    np.testing.assert_allclose(encoded.log_probs, expected.log_probs, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_tensorrt_refuses_what_has_no_step(folders: dict[str, ModelFolder], kind: str) -> None:
    with pytest.raises(BackendError, match=rf"'tensorrt' encodes step by step, and tiny-{kind} in one pass .*{kind}\)"):
        TensorRTBackend.open(folders[kind])


def test_a_gaussian_vae_is_not_exported(tmp_path: Path) -> None:
    run = checkpoint("gaussian", tmp_path / "run")
    with pytest.raises(UnsupportedError, match="a Gaussian VAE has no codes, so there is no tokenizer to export"):
        export_folder(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_vectors_that_are_equally_near_count_as_a_tie() -> None:
    model = Autoencoder(of_kind(TINY_GRID, "nearest")).eval()
    torch.nn.init.zeros_(model.recognition.head.weight)
    assert choice_gap(model, torch.from_numpy(random_inputs(TINY_GRID, 1)), torch.zeros(1, 16).long(), 0) == 0.0


def test_a_number_that_is_nearly_rounded_the_other_way_counts_as_a_near_tie() -> None:
    torch.manual_seed(0)
    model = Autoencoder(of_kind(TINY_GRID, "levels")).eval()
    inputs, codes = torch.from_numpy(random_inputs(TINY_GRID, 1)), torch.zeros(1, 16).long()
    numbers = model.recognition.context(model.standardise(inputs))[0, 3]
    expected = float((numbers - numbers.round()).abs().sub(0.5).abs().min())
    assert choice_gap(model, inputs, codes, 3) == pytest.approx(expected, abs=1e-5)
