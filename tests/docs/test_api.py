"""docs/api.md names everything that is public, its code runs, and so do the examples in docstrings."""

import doctest
import importlib
import inspect
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import daps_tokenizer
from daps_tokenizer import Codes, Generator, Tokenizer
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
WITH_EXAMPLES = ["codes.codes", "images.load", "motion.clips", "search.best_of", "search.local", "tokenizer", "ways"]


def public(owner: type) -> set[str]:
    return {name for name in vars(owner) if not name.startswith("_")}


@pytest.mark.parametrize("name", sorted({*daps_tokenizer.__all__} - {"__version__"}))
def test_every_public_name_is_on_the_page(name: str) -> None:
    assert re.search(rf"\b{name}\b", PAGE), f"docs/api.md does not name {name}"


@pytest.mark.parametrize("owner", [Tokenizer, Codes, Generator])
def test_every_method_and_attribute_is_on_the_page(owner: type) -> None:
    missing = {name for name in public(owner) if not re.search(rf"\b{name}\b", PAGE)}
    assert not missing


def test_every_option_is_on_the_page() -> None:
    options = {
        name
        for method in (Tokenizer.from_pretrained, Tokenizer.encode, Tokenizer.sample, Generator.sample)
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert "value_range" in options and not {name for name in options if not re.search(rf"\b{name}\b", PAGE)}


def test_options_are_spelled_out() -> None:
    for name, method in inspect.getmembers(Tokenizer, inspect.isfunction):
        kinds = {parameter.kind for parameter in inspect.signature(method).parameters.values()}
        assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}, name


@pytest.fixture
def with_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)


def test_its_code_runs(with_examples: None) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, object] = {"__name__": "docs_api"}
    for block in blocks:
        exec(block, names)
    assert names["sizes"] == [(1, 150, 64), (1, 247, 64)] and tuple(names["batch"].shape) == (2, 64)  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_of_docstrings_are_true(module: str, with_examples: None) -> None:
    found = importlib.import_module(f"daps_tokenizer.{module}")
    names = {"np": np, "tok": Tokenizer.from_pretrained("daps-cifar10")}
    failed, tried = doctest.testmod(found, extraglobs=names)
    assert tried and not failed
