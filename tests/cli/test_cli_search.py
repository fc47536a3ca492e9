"""daps-tokenize --search: better codes for the same bits, and what was gained."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daps_tokenizer import BestOf, Codes, LocalSearch, Tokenizer
from daps_tokenizer.cli.encoding import Encoding
from daps_tokenizer.evaluation.metrics import psnr
from tests.cli.helpers import digit, on_terminal, refusal, run_well

GAIN = re.compile(r" ms, log p ([+-][\d,]+\.\d) nats over greedy codes, (\d+) decodes, \d+\.\d s\n$")


def test_search_writes_what_local_search_finds_and_says_what_was_gained(tok: Tokenizer, model: str) -> None:
    printed = run_well("encode", "digit.png", "--search", 2, "--model", model).stdout
    assert Codes.load("digit.daps") == tok.encode("digit.png", search=LocalSearch())
    found = GAIN.search(printed)
    assert found and found[2] == "18"  # greedy, 8 positions × 2 proposals, and the result


def test_the_options_of_the_search_are_those_of_local_search(tok: Tokenizer, model: str) -> None:
    options = ["--search", 3, "--sweeps", 2, "--objective", "squared-error", "--max-seconds", 100]
    run_well("encode", "digit.png", *options, "--model", model)
    search = LocalSearch(sweeps=2, proposals=3, objective="squared_error", max_seconds=100)
    assert Codes.load("digit.daps") == tok.encode("digit.png", search=search)
    run_well("encode", "digit.png", "--search", 3, "--max-seconds", 0, "--force", "--model", model)
    assert Codes.load("digit.daps") == tok.encode("digit.png")


def log_likelihood(tok: Tokenizer, search: BestOf | LocalSearch | None) -> float:
    """log p(x|z) of digit.png with the codes that are found."""
    return float(tok.likelihood("digit.png", tok.encode("digit.png", search=search)).log_likelihood[0])


@pytest.mark.parametrize("command", ["encode", "reconstruct"])
def test_the_gain_is_in_nats_over_greedy_codes(tok: Tokenizer, model: str, command: str) -> None:
    record = json.loads(run_well(command, "digit.png", "--search", 2, "--json", "--model", model).stdout)
    searched, greedy = (log_likelihood(tok, search) for search in (LocalSearch(), None))
    assert record["search"].pop("gain") == pytest.approx(searched - greedy)
    assert record["search"].pop("seconds") > 0
    assert record["search"] == {"objective": "log p", "unit": "nats", "over": "greedy codes", "decodes": 18}


def test_the_gain_in_squared_error_is_in_psnr(tok: Tokenizer, model: str) -> None:
    options = ["--search", 2, "--objective", "squared-error", "--json"]
    record = json.loads(run_well("encode", "digit.png", *options, "--model", model).stdout)
    original, search = tok.targets("digit.png"), LocalSearch(objective="squared_error")
    searched, greedy = (psnr(original, tok.reconstruct("digit.png", search=s))[0] for s in (search, None))
    assert record["search"]["gain"] == pytest.approx(searched - greedy)
    assert record["search"]["objective"] == "PSNR" and record["search"]["unit"] == "dB"


def test_the_best_of_several_says_its_gain_too(tok: Tokenizer, model: str) -> None:
    record = json.loads(run_well("encode", "digit.png", "--best-of", 4, "--json", "--model", model).stdout)
    best, greedy = (log_likelihood(tok, search) for search in (BestOf(4), None))
    assert record["search"]["gain"] == pytest.approx(best - greedy)
    assert record["search"]["decodes"] == 4


def test_reconstruct_says_what_was_gained_too(tok: Tokenizer, model: str) -> None:
    assert GAIN.search(run_well("reconstruct", "digit.png", "--search", 1, "--model", model).stdout)


def test_compare_shows_greedy_codes_between_the_original_and_what_was_found(tok: Tokenizer, model: str) -> None:
    run_well("reconstruct", "digit.png", "-o", "three.png", "--compare", "--search", 2, "--model", model)
    three = np.asarray(Image.open("three.png"))
    assert three.shape == (28, 3 * 28 + 2)
    panels = (np.asarray(digit()), *(tok.reconstruct("digit.png", search=s)[0, ..., 0] for s in (None, LocalSearch())))
    for left, panel in zip((0, 29, 58), panels, strict=True):
        np.testing.assert_array_equal(three[:, left : left + 28], panel)


def test_tiles_are_searched_and_measured_as_one_image(tok: Tokenizer, model: str) -> None:
    digit(size=56).save("large.png")
    printed = run_well("encode", "large.png", "--fit", "tile", "--search", 1, "--model", model).stdout
    assert GAIN.search(printed)
    assert Codes.load("large.daps") == tok.encode("large.png", fit="tile", search=LocalSearch(proposals=1))


def test_without_search_nothing_is_said_of_it(model: str) -> None:
    assert "decodes" not in run_well("encode", "digit.png", "--model", model).stdout


def test_a_search_moves_the_progress_bar(tok: Tokenizer) -> None:
    shares: list[float] = []
    encoding = Encoding(search=1)
    encoding.encode(tok, encoding.load("digit.png", tok), shares.append)
    assert shares == [(i + 1) / 8 for i in range(8)]


def test_a_search_on_a_terminal_leaves_its_line_in_the_pipe(model: str) -> None:
    code, shown, piped = on_terminal(["encode", "digit.png", "--search", "2", "--model", model], stream="stderr")
    assert code == 0 and "1/1" in shown and GAIN.search(piped.decode())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--search", "2", "--best-of", "2"], "--best-of and --search exclude each other"),
        (["--search", "2", "--sample"], "--sample and --search exclude each other"),
        (["--search", "2", "--seed", "1"], "--seed needs --sample or --best-of"),
        (["--search", "0"], "Invalid value for '--search': 0 is not in the range x>=1"),
        (["--sweeps", "2"], "--sweeps needs --search"),
        (["--objective", "squared-error"], "--objective needs --search"),
        (["--max-seconds", "1"], "--max-seconds needs --search"),
        (["--search", "2", "--objective", "ssim"], "'ssim' is not one of 'log-likelihood', 'squared-error'"),
        (["--search", "2", "--max-seconds", "nan"], "max_seconds must be a finite number of at least 0, not nan"),
    ],
)
def test_impossible_searches_are_refused_in_one_line(model: str, options: list[str], message: str) -> None:
    assert message in refusal("encode", "digit.png", *options, "--model", model)
    assert not Path("digit.daps").exists()
