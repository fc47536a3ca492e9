"""The class Generator: what it draws, what it says of codes, and what it refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from daps_tokenizer import (
    Codes,
    CodesError,
    Generator,
    InputError,
    ModelFileError,
    ModelNotFoundError,
    Tokenizer,
    UnsupportedError,
)
from daps_tokenizer.backends.workers import Workers
from tests.cli.helpers import ENVIRONMENT


@pytest.fixture
def flow(random_generators: dict[str, Path]) -> Generator:
    return Generator.from_pretrained(random_generators["flow"])


@pytest.fixture
def causal(random_generators: dict[str, Path]) -> Generator:
    return Generator.from_pretrained(random_generators["causal"])


@pytest.fixture
def tok(random_mnist_folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(random_mnist_folder)


@pytest.mark.parametrize("kind", ["flow", "causal"])
def test_codes_of_a_label_are_drawn_and_decoded(kind: str, random_generators: dict[str, Path], tok: Tokenizer) -> None:
    generator = Generator.from_pretrained(random_generators[kind])
    assert generator.labels == ("round", "square") and generator.tokenizer.name == tok.config.name
    codes = generator.sample("round", num_samples=3, seed=0)
    assert codes.shape == (3, tok.num_tokens) and codes.weights_sha256 == tok.config.weights_sha256
    assert tok.decode(codes).shape == (3, 28, 28, 1)


@pytest.mark.parametrize("kind", ["flow", "causal"])
def test_a_seed_repeats_and_none_draws_anew(kind: str, random_generators: dict[str, Path]) -> None:
    generator = Generator.from_pretrained(random_generators[kind], num_threads=1)
    first, again, other, anew = (generator.sample("round", 4, seed=seed) for seed in (1, 1, 2, None))
    assert first == again and first != other and first != anew
    # Labels and guidance decide what is drawn from the same random numbers.
    assert first != generator.sample("square", 4, seed=1)
    assert first != generator.sample("round", 4, seed=1, guidance=5.0)


def test_a_list_of_labels_draws_some_of_each(causal: Generator) -> None:
    both = causal.sample(["round", "square"], 2, seed=3)
    assert both.shape == (4, 8)
    # Rows take their random numbers in order, so the first two are those of the label alone.
    assert np.array_equal(both.numpy()[:2], causal.sample("round", 2, seed=3).numpy())


def test_large_calls_are_cut_into_parts_without_changing_what_is_drawn(
    causal: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = causal.sample("round", 9, seed=0)
    monkeypatch.setattr("daps_tokenizer.generator._CODES_AT_ONCE", 16)
    assert causal.sample("round", 9, seed=0) == whole


def test_drawn_codes_are_more_probable_than_others_and_than_for_another_label(causal: Generator) -> None:
    codes = causal.sample("square", 2000, seed=0, guidance=0.0).numpy()
    log_p = causal.log_prob(codes, "square")
    assert log_p.shape == (2000,) and (log_p < 0).all()
    assert log_p.mean() > causal.log_prob(codes, "round").mean() + 0.1
    uniform = np.random.default_rng(0).integers(0, 256, (2000, 8))
    assert log_p.mean() > causal.log_prob(uniform, "square").mean() + 1.0
    assert causal.log_prob(codes[:0], "square").shape == (0,)


def test_temperature_zero_takes_the_most_probable_codes(causal: Generator) -> None:
    greedy = causal.sample("round", 2, seed=0, temperature=0.0, guidance=0.0).numpy()
    assert np.array_equal(greedy[0], greedy[1])
    others = np.repeat(greedy[:1], 256, axis=0)
    others[:, -1] = np.arange(256)  # all that differ in the last code alone
    assert causal.log_prob(others, "round").argmax() == greedy[0, -1]


def test_log_prob_takes_a_label_for_each_item(causal: Generator) -> None:
    codes = causal.sample(["round", "square"], 1, seed=0)
    together = causal.log_prob(codes, ["round", "square"])
    assert together == pytest.approx(
        [causal.log_prob(codes[:1], "round")[0], causal.log_prob(codes[1:], "square")[0]], abs=1e-4
    )
    assert not np.allclose(together, causal.log_prob(codes), atol=1e-3)  # of any class


def test_the_uniform_prior_serves_any_tokenizer(tok: Tokenizer) -> None:
    prior = Generator.uniform(tok)
    codes = prior.sample(num_samples=500, seed=0)
    assert codes.shape == (500, 8) and codes == prior.sample(num_samples=500, seed=0)
    assert tok.decode(codes[:2]).shape == (2, 28, 28, 1)
    assert len(np.unique(codes.numpy())) == 256
    assert prior.log_prob(codes)[0] == pytest.approx(-8 * np.log(256))
    assert prior.labels == ()
    with pytest.raises(InputError, match="the uniform prior has no label"):
        prior.sample("round")
    with pytest.raises(InputError, match="the uniform prior has no label"):
        prior.log_prob(codes, "round")


def test_threads_share_one_generator(causal: Generator) -> None:
    alone = [causal.sample("round", 2, seed=seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda seed: causal.sample("round", 2, seed=seed), range(6))) == alone


def test_ctrl_c_ends_a_run_that_would_take_long(flow: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Future[np.ndarray]] = []

    def interrupted(workers: Workers, function: Callable[[], np.ndarray]) -> np.ndarray:
        runs.append(workers._threads().submit(function))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Workers, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            flow.sample("round", 500, steps=1000, seed=0)
    assert "terminate" in str(runs[0].exception(timeout=60))
    assert len(flow.sample("round", 2, seed=0)) == 2  # the next call is none the worse


def test_what_cannot_be_drawn_is_refused(flow: Generator, causal: Generator) -> None:
    with pytest.raises(InputError, match="label 'oval' is not known to random-flow; labels are round, square"):
        flow.sample("oval")
    with pytest.raises(InputError, match="steps are for generators of kind flow"):
        causal.sample("round", steps=4)
    for name, value in (
        ("num_samples", 0),
        ("steps", 0),
        ("guidance", -1),
        ("temperature", float("nan")),
        ("seed", -1),
    ):
        with pytest.raises(InputError, match=name):
            flow.sample("round", **{name: value})
    with pytest.raises(InputError, match="guidance must be a finite number of at least 0 and at most 1000"):
        flow.sample("round", guidance=1e38)
    with pytest.raises(InputError, match="guidance 2 needs a label or a condition"):
        flow.sample(guidance=2)
    with pytest.raises(InputError, match="seed must be an integer"):
        causal.sample("round", 2, seed=[1, 2])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="conditions must be a mapping of names to values, not int"):
        causal.sample("round", conditions=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="label: an empty list"):
        flow.sample([])
    for many in (10**12, 10**20):
        with pytest.raises(InputError, match="GiB of random numbers; use fewer samples"):
            causal.sample("round", many)
    with pytest.raises(InputError, match="steps must be an integer from 1 to 10000"):
        flow.sample("round", steps=10**9)
    with pytest.raises(InputError, match="num_threads"):
        Generator.from_pretrained("anything", num_threads=0)


def test_codes_of_another_tokenizer_are_refused_both_ways(causal: Generator, tok: Tokenizer) -> None:
    other = Codes(np.zeros((1, 8), int), 256, "other", "f" * 64)
    with pytest.raises(CodesError, match=r"codes were made by other \(weights ffffffffffff\); random-causal is for"):
        causal.log_prob(other)
    with pytest.raises(CodesError, match=r"takes \(items, 8\) out of 256"):
        causal.log_prob(np.zeros((1, 9), int))
    with pytest.raises(CodesError, match="out of range"):
        causal.log_prob(np.full((1, 8), 256))
    with pytest.raises(InputError, match="2 labels for 1 items"):
        causal.log_prob(np.zeros((1, 8), int), ["round", "square"])
    elsewhere = Codes(causal.sample("round", seed=0).numpy(), 256, "other", "f" * 64)
    with pytest.raises(CodesError, match="use the model that made them"):
        tok.decode(elsewhere)


def test_a_flow_has_no_probabilities(flow: Generator) -> None:
    with pytest.raises(UnsupportedError, match="random-flow is a flow, which has no probabilities of codes"):
        flow.log_prob(np.zeros((1, 8), int))


def test_a_tokenizer_is_no_generator_and_a_generator_no_tokenizer(
    random_generators: dict[str, Path], random_mnist_folder: Path
) -> None:
    with pytest.raises(ModelNotFoundError, match=r"is a tokenizer; open it with Tokenizer\.from_pretrained"):
        Generator.from_pretrained(random_mnist_folder)
    with pytest.raises(ModelNotFoundError, match=r"is a generator; open it with Generator\.from_pretrained"):
        Tokenizer.from_pretrained(random_generators["flow"])
    with pytest.raises(ModelNotFoundError, match=r"daps-mnist is a tokenizer; open it with Tokenizer"):
        Generator.from_pretrained("daps-mnist")
    with pytest.raises(ModelNotFoundError, match="no model is named 'daps-dogs'"):
        Generator.from_pretrained("daps-dogs")


def test_damaged_files_are_refused(random_generators: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(random_generators["causal"], tmp_path / "copy"))
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.safetensors is damaged"):
        Generator.from_pretrained(folder).sample("round")
    (folder / "scorer.onnx").unlink()
    with pytest.raises(ModelFileError, match=r"has no scorer\.onnx"):
        Generator.from_pretrained(folder).log_prob(np.zeros((1, 8), int))


def test_drawing_takes_no_torch(random_generators: dict[str, Path]) -> None:
    program = (
        "import sys; from daps_tokenizer import Generator; "
        f"Generator.from_pretrained({str(random_generators['flow'])!r}).sample('round'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, check=False).returncode == 0
