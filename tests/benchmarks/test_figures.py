"""Numbers in README and docs are those of the results."""

import math
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import figures as module
from benchmarks.__main__ import main
from benchmarks.figures import figure, fill, number, pages, stale
from benchmarks.reports import RESULTS
from daps_tokenizer.errors import InputError
from daps_tokenizer.hub import open_model
from tests.paths import ROOT


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_the_numbers_of_the_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert fill(text) == text, "python -m benchmarks figures --write"


def test_every_result_is_of_the_weights_in_the_package() -> None:
    assert stale() == []


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.md")), ids=lambda path: path.name)
def test_a_result_names_no_folder_of_one_machine(path: Path) -> None:
    """A reader runs the commands that it quotes; only /tmp is there on every machine."""
    assert re.findall(r"(?<![\w.:/<])/(?:work|root|home|Users|mnt|data)/\S*", path.read_text(encoding="utf-8")) == []


def test_a_result_of_other_weights_is_named_with_the_command_that_measures_it_again(tmp_path: Path) -> None:
    (tmp_path / "search_daps-mnist.json").write_text(
        '{"command": "python -m again", "weights_sha256": "0123456789abcdef"}'
    )
    assert stale(tmp_path) == [
        "search_daps-mnist.json: weights 0123456789ab of daps-mnist are not shipped; python -m again, or delete it"
    ]


def test_a_number_that_drifted_is_written_anew() -> None:
    evaluation = open_model("daps-cifar10").config.training["evaluation"]
    filled = fill("It has <!-- figure daps-cifar10:greedy:log_p .1f -->1.0<!-- end --> nats.")
    assert (
        filled
        == f"It has <!-- figure daps-cifar10:greedy:log_p .1f -->{evaluation['greedy_log_p']:.1f}<!-- end --> nats."
    )
    assert fill(filled) == filled


def test_a_table_that_drifted_is_written_anew() -> None:
    text = "<!-- figures columns photo_compare; method; steps -->\n| old |\n<!-- end -->\n"
    lines = fill(text).splitlines()
    assert lines[1:3] == ["| method | steps |", "|---|---|"] and lines[-1] == "<!-- end -->"
    assert "| fsq | 12,000 |" in lines


def test_a_difference_and_a_negative_number() -> None:
    name = "daps-mnist:greedy:log_p - daps-mnist:sampled:log_p"
    assert figure(name) == figure("daps-mnist:greedy:log_p") - figure("daps-mnist:sampled:log_p")
    assert number(-47.02, ".1f") == "−47.0" and number(612.0, "d") == "612"


def test_the_authors_units_are_a_change_of_variables() -> None:
    # log N(x; m, s) of pixels divided by d is log N of the pixels plus log d, for each of 256·256·3 of them.
    ours = [255 * std for std in open_model("daps-photo-256").config.normalisation.std]
    expected = 256 * 256 * sum(math.log(a) - math.log(b) for a, b in zip(ours, (68.819, 66.551, 69.687), strict=True))
    assert figure("daps-photo-256:authors") == pytest.approx(expected) == pytest.approx(12_653, abs=1)
    assert figure("daps-cifar10:authors") == 0.0


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("<!-- figure nowhere/a d -->1<!-- end -->", "no nowhere.json in benchmarks/results"),
        ("<!-- figure latency/nothing d -->1<!-- end -->", "latency.json has no 'nothing' there"),
        ("<!-- figure daps-mnist:greedy d -->1<!-- end -->", "is not MODEL:WAY:METRIC"),
        ("<!-- figure daps-mnist:greedy:joy d -->1<!-- end -->", "joy of greedy codes is not in its card"),
        ("<!-- figures joy -->\n<!-- end -->", "no block 'joy'"),
        ("<!-- figures columns photo_compare; joy -->\n<!-- end -->", "photo_compare.md has no column 'joy'"),
    ],
)
def test_a_mark_that_names_nothing_is_refused(mark: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fill(mark)


def test_the_command_names_the_page_that_differs_and_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- figure daps-mnist:greedy:psnr .2f -->1<!-- end -->")
    monkeypatch.setattr(module, "pages", lambda: [page])
    monkeypatch.setattr(module, "ROOT", tmp_path)
    checked = CliRunner().invoke(main, ["figures", "--check"])
    assert checked.exit_code == 1 and "page.md: python -m benchmarks figures --write" in checked.output
    assert CliRunner().invoke(main, ["figures", "--write"]).exit_code == 0
    assert f"-->{figure('daps-mnist:greedy:psnr'):.2f}<!--" in page.read_text()
    assert CliRunner().invoke(main, ["figures"]).exit_code == 0
