"""Quality is measured image by image: in pieces as at once, of models and codecs, and reported without the images."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, features

from benchmarks.__main__ import main
from benchmarks.quality.codecs import CODECS, Codec
from benchmarks.quality.contact_sheet import Panel, choose_rows, draw_sheet
from benchmarks.quality.measure import choose_images
from benchmarks.quality.records import Records, pack_codes, unpack_codes
from benchmarks.quality.report import QualityRequest, run_quality
from daps_tokenizer import LocalSearch, Tokenizer
from daps_tokenizer.errors import BackendError, InputError
from tests.photographs import noise_photo
from tests.test_tokenizer import digits


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight images of 28×28."""
    folder = tmp_path_factory.mktemp("images")
    for number, digit in enumerate(digits(8)):
        Image.fromarray(digit[..., 0]).save(folder / f"{number}.png")
    return folder


def request(model: Path, data: Path, **changes: object) -> QualityRequest:
    options = {"images": None, "codecs": False, "best_of": (2,), "only": (), "seed": 0, "threads": 2, **changes}
    return QualityRequest((str(model),), data, **options)


def run(asked: QualityRequest, tmp_path: Path, out: str = "out") -> tuple[dict, list[Path]]:
    paths = run_quality(asked, tmp_path / "work", tmp_path / out, name=None, command="the command", perceptual=None)
    return json.loads(paths[0].read_text()), paths


def test_the_report_says_what_the_tokenizer_says(random_mnist_folder: Path, photographs: Path, tmp_path: Path) -> None:
    content, paths = run(request(random_mnist_folder, photographs), tmp_path)
    results = content["results"]["random-mnist"]
    searched = ["local search", "local search, two sweeps", "local search, squared error"]
    assert list(results) == ["greedy", "sampled", "best of 2", *searched, "wide search, squared error"]
    tok, images = Tokenizer.from_pretrained(random_mnist_folder), digits(8)
    for name, search in (("greedy", None), ("local search", LocalSearch())):
        expected = tok.likelihood(images, tok.encode(images, search=search)).log_likelihood
        assert math.isclose(results[name]["log_p"]["mean"], expected.mean(), rel_tol=1e-6)
    assert results["best of 2"]["worse"]["log_p"] == results["local search"]["worse"]["log_p"] == 0
    for name in ("local search, squared error", "wide search, squared error"):
        assert results[name]["worse"]["squared_error"] == 0
    assert results["local search, two sweeps"]["log_p"]["mean"] >= results["local search"]["log_p"]["mean"]
    assert results["local search"]["log_p_gain"]["low"] > 0
    greedy = results["greedy"]
    assert 1 <= greedy["code_perplexity"] <= greedy["codes_used"] <= 256
    assert math.isclose(greedy["bits_per_code"], math.log2(greedy["code_perplexity"]))

    table, per_image, sheet = (path.read_text() for path in paths[1:3]), json.loads(paths[2].read_text()), paths[3]
    assert "| random-mnist | greedy |" in next(table) and per_image["images"] == list(range(8))
    assert len(per_image["models"]["random-mnist"]["sampled"]["psnr"]) == 8
    assert sheet.parent == tmp_path / "work"  # pictures are not among the results
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"


def test_pieces_make_the_same_report_as_one_run(random_mnist_folder: Path, photographs: Path, tmp_path: Path) -> None:
    at_once, _ = run(request(random_mnist_folder, photographs, only=("greedy",)), tmp_path / "once")
    run(request(random_mnist_folder, photographs, only=("greedy",), images="0:3"), tmp_path / "pieces")
    run(request(random_mnist_folder, photographs, only=("greedy",), images="3:"), tmp_path / "pieces")
    (kept,) = (tmp_path / "pieces" / "work").glob("*.jsonl")
    lines = kept.read_text()
    in_pieces, _ = run(request(random_mnist_folder, photographs, only=("greedy",)), tmp_path / "pieces")
    assert in_pieces["results"] == at_once["results"]
    assert kept.read_text() == lines and len(lines.splitlines()) == 1 + 8  # nothing was measured again


def test_models_side_by_side(random_mnist_folder: Path, photographs: Path, tmp_path: Path) -> None:
    other = shutil.copytree(random_mnist_folder, tmp_path / "other")
    asked = QualityRequest((str(random_mnist_folder), str(other)), photographs, "2", True, (), ("greedy",), 0, 1)
    content, paths = run(asked, tmp_path)
    assert set(content["results"]) == {"random-mnist", "other"}
    assert content["max_bytes"] == 8 and content["codecs"]["WebP"] == {"fit": 0}  # eight bytes are no file
    assert "| WebP | 0 of 2 | – |" in paths[1].read_text()


def test_records_survive_a_run_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records = Records(path, {"seed": 0})
    records.add("greedy", 3, {"psnr": 20.0, "codes": pack_codes(np.array([1, 65535]))})
    records.add("sampled", 3, {"psnr": 19.0})
    records.add("greedy", 4, {"psnr": 21.0})
    with path.open("a") as file:
        file.write('{"way": "sampled", "im')
    found = Records(path, {"seed": 0})
    assert found.images(["greedy", "sampled"]) == {3} and found.images(["greedy"]) == {3, 4}
    assert unpack_codes(found.get("greedy", 3)["codes"]).tolist() == [1, 65535]
    found.add("sampled", 4, {"psnr": 18.0})
    assert Records(path, {"seed": 0}).has("sampled", 4)


def test_records_of_something_else_are_refused(tmp_path: Path) -> None:
    Records(tmp_path / "records.jsonl", {"seed": 0})
    with pytest.raises(InputError, match="was measured with seed 0, not 1; remove it, or name another folder"):
        Records(tmp_path / "records.jsonl", {"seed": 1})
    (tmp_path / "text.jsonl").write_text("hello\n")
    with pytest.raises(InputError, match=r"text.jsonl: holds no records of measurements"):
        Records(tmp_path / "text.jsonl", {})


def test_choosing_images() -> None:
    assert choose_images(None, 3) == [0, 1, 2] and choose_images("2", 3) == [0, 1]
    assert choose_images("1:3", 9) == [1, 2] and choose_images("::4", 9) == [0, 4, 8]
    for text in ("0", "a", "1:2:3:4", "9:", ""):
        with pytest.raises(InputError, match="--images must be a number or a slice"):
            choose_images(text, 9) if text else choose_images("x", 9)


def test_a_way_that_is_none_is_refused_in_one_line(random_mnist_folder: Path, photographs: Path) -> None:
    arguments = ["quality", "--model", str(random_mnist_folder), "--data", str(photographs), "--way", "magic"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and "--way must be one of greedy, sampled, best of 8" in result.stderr


def test_models_of_other_sizes_are_not_compared(random_mnist_folder: Path, photographs: Path, tmp_path: Path) -> None:
    asked = QualityRequest((str(random_mnist_folder), "daps-cifar10"), photographs, None, False, (), (), 0, 1)
    with pytest.raises(InputError, match=r"images of one size, not \[28, 28, 1\] and \[32, 32, 3\]"):
        run_quality(asked, tmp_path, tmp_path, name=None, command="", perceptual=None)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("shape", [(96, 64, 3), (80, 96, 1)])
def test_a_codec_gives_the_best_file_that_fits(codec: Codec, shape: tuple[int, ...]) -> None:
    if not features.check(codec.feature):
        pytest.skip(f"Pillow without {codec.name}")
    y, x, channel = np.ogrid[: shape[0], : shape[1], : shape[2]]
    noise = np.random.default_rng(0).normal(scale=9, size=(*shape[:2], 1))
    image = (127 + 60 * np.sin(y / 9 + channel) + 30 * np.cos(x / 5) + noise).astype(np.uint8)
    small, large = codec.fit(image, 900), codec.fit(image, 1800)
    assert small is not None and large is not None
    assert len(small.content) <= 900 < len(large.content) <= 1800
    errors = [np.square(image - fitted.pixels.astype(float)).mean() for fitted in (small, large)]
    assert errors[1] < errors[0] and small.pixels.shape == image.shape
    assert codec.fit(image, 20) is None


def test_a_codec_that_pillow_lacks_is_named() -> None:
    missing = Codec("Better", "webp_better", [1.0], lambda quality: {})
    with pytest.warns(UserWarning, match="Unknown feature"), pytest.raises(BackendError, match="without Better"):
        missing.fit(np.zeros((8, 8, 3), np.uint8), 100)


def test_a_sheet_shows_each_chosen_image_once() -> None:
    rows = choose_rows(np.array([5.0, 1, 9, 3, 7, 2, 8]), 2)
    assert rows == [("best", 2), ("best", 6), ("median", 4), ("median", 0), ("worst", 5), ("worst", 1)]
    assert choose_rows(np.array([1.0, 2.0])) == [("best", 1), ("best", 0)]
    content = draw_sheet([[Panel("a", noise_photo(0)), Panel("b", noise_photo(1)[..., :1])]])
    assert content.startswith(b"\x89PNG")
