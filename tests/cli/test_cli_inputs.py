"""What daps-tokenize says of its inputs: what it takes of them, and what it assumes."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daps_tokenizer import Codes, Tokenizer
from daps_tokenizer.cli.encoding import Encoding
from daps_tokenizer.images import inputs as image_inputs
from daps_tokenizer.images import load as image_load
from daps_tokenizer.images.load import fit_image, load_images
from daps_tokenizer.install import install_command
from tests.cli.helpers import digit, refusal, run_well

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_what_is_taken_of_transparent_images_and_animations_is_said_once(model: str) -> None:
    for number in range(2):
        digit(number).convert("LA").save(f"clear-{number}.png")
        digit(number).save(f"moving-{number}.gif", save_all=True, append_images=[digit(number + 2)])
    names = [f"{name}-{number}.{suffix}" for number in (0, 1) for name, suffix in (("clear", "png"), ("moving", "gif"))]
    assert run_well("encode", *names, "--model", model).stderr.splitlines() == [
        "note: clear-0.png has transparency; transparent pixels are laid over white",
        "note: moving-0.gif holds several frames; the first one is taken",
    ]
    assert run_well("encode", "digit.png", "--model", model).stderr == ""


def test_standard_input_is_described_too(model: str) -> None:
    content = io.BytesIO()
    digit().convert("LA").save(content, "PNG")
    said = run_well("encode", "-", "-o", "x.daps", "--model", model, stdin=content.getvalue()).stderr
    assert said == "note: standard input has transparency; transparent pixels are laid over white\n"


def test_heic_names_the_package_that_reads_it(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    Path("photo.heic").write_bytes(HEIC)
    command = install_command("heic")
    end = f"is HEIC, which the package pillow-heif reads; install it with {command}, or save the image as JPEG"
    assert refusal("encode", "photo.heic", "--model", model) == f"photo.heic: {end}"
    assert refusal("encode", "-", "--model", model, stdin=HEIC) == f"standard input: {end}"


def test_heic_is_read_where_the_package_is_installed(tok: Tokenizer, model: str) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    heif.from_pillow(digit(size=64).convert("RGB")).save("photo.heic", quality=-1)
    run_well("encode", "photo.heic", "--model", model)
    assert Codes.load("photo.daps") == tok.encode(heif.read_heif("photo.heic").to_pillow())
    Path("broken.heic").write_bytes(HEIC)
    assert "broken.heic: " in refusal("encode", "broken.heic", "--model", model)


def test_a_photograph_in_many_tiles_moves_the_progress_bar(tok: Tokenizer) -> None:
    digit(size=28 * 40).save("large.png")
    shares, encoding = list[float](), Encoding(fit="tile")
    encoded = encoding.encode(tok, encoding.load("large.png", tok), shares.append)
    assert len(shares) > 2 and shares == sorted(shares) and shares[-1] == 1
    assert encoded.codes == tok.encode("large.png", fit="tile")


@pytest.mark.parametrize("sample", [False, True])
def test_tiles_that_see_their_neighbours_are_encoded_in_parts(
    random_grid_folder: Path, monkeypatch: pytest.MonkeyPatch, sample: bool
) -> None:
    monkeypatch.setattr("daps_tokenizer.cli.encoding.encode_chunk", lambda config: 1)
    tok = Tokenizer.from_pretrained(random_grid_folder)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8)).save("large.png")
    shares, encoding = list[float](), Encoding(fit="tile", sample=sample, seed=7 if sample else None)
    encoded = encoding.encode(tok, encoding.load("large.png", tok), shares.append)
    assert len(shares) == 2 and shares[-1] == 1  # 24 tiles, at most 16 at a time
    expected = tok.sample("large.png", fit="tile", seed=7)[:, 0] if sample else tok.encode("large.png", fit="tile")
    np.testing.assert_array_equal(encoded.codes.numpy(), expected.numpy())
    log_q = tok.token_log_probs("large.png", expected, fit="tile")
    np.testing.assert_allclose(encoded.log_q, log_q[0], atol=1e-4)


def test_a_sample_of_tiles_is_that_of_the_tokenizer(tok: Tokenizer, model: str) -> None:
    digit(size=28 * 3).save("large.png")
    run_well("encode", "large.png", "--fit", "tile", "--sample", "--seed", 5, "--model", model)
    expected = tok.sample("large.png", fit="tile", seed=5)[:, 0]
    np.testing.assert_array_equal(Codes.load("large.daps").numpy(), expected.numpy())


def test_more_threads_than_cores_are_capped_with_a_warning(model: str) -> None:
    said = run_well("encode", "digit.png", "--num-threads", 10_000, "--model", model).stderr
    assert said.startswith("warning: --num-threads 10000 is capped at ") and said.count("\n") == 1
    assert run_well("encode", "digit.png", "--num-threads", 1, "--force", "--model", model).stderr == ""


def test_an_image_is_read_and_fitted_once(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its reconstruction is searched for and compared."""
    digit(size=56).save("large.png")
    read, scaled = list[object](), list[tuple[int, ...]]()

    def load(images: object, **options: Any) -> list[np.ndarray]:
        read.extend([] if isinstance(images, np.ndarray) else [images])
        return load_images(images, **options)

    def fit(image: np.ndarray, height: int, width: int, **options: Any) -> np.ndarray:
        scaled.extend([image.shape] if image.shape[:2] != (height, width) else [])
        return fit_image(image, height, width, **options)

    monkeypatch.setattr(image_inputs, "load_images", load)
    monkeypatch.setattr(image_load, "fit_image", fit)
    run_well("reconstruct", "large.png", "--search", 1, "--compare", "--model", model)
    assert read == ["large.png"] and scaled == [(56, 56, 1)]
