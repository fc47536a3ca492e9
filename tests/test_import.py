"""The package is light: importing it loads no runtime and no framework."""

import subprocess
import sys

import pytest

import daps_tokenizer

HEAVY = ("torch", "onnx", "onnxruntime", "huggingface_hub", "matplotlib")


def loaded_after(statement: str, modules: tuple[str, ...] = HEAVY) -> set[str]:
    command = f"import sys\n{statement}\nprint('loaded', *(set(sys.modules) & set({modules})))"
    finished = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    return set(finished.stdout.splitlines()[-1].split()) - {"loaded"}


def test_importing_the_package_loads_no_runtime_and_no_framework() -> None:
    assert loaded_after("import daps_tokenizer") == set()


def test_a_name_of_the_package_is_imported_when_it_is_used() -> None:
    assert loaded_after("import daps_tokenizer", ("numpy", "PIL")) == set()
    for name in set(daps_tokenizer.__all__) - {"__version__"}:
        assert getattr(daps_tokenizer, name).__name__ == name and name in dir(daps_tokenizer)
    with pytest.raises(AttributeError, match="module 'daps_tokenizer' has no attribute 'Tokeniser'"):
        _ = daps_tokenizer.Tokeniser


def test_help_waits_for_nothing() -> None:
    call = "from daps_tokenizer.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert loaded_after(call, ("numpy", "PIL", "rich", "onnxruntime", "daps_tokenizer.tokenizer")) == set()


def test_the_help_of_the_benchmarks_does_not_import_pytorch() -> None:
    call = "from benchmarks.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert loaded_after(call, ("torch", "onnxruntime", "matplotlib")) == set()


def test_importing_the_command_line_loads_none_either() -> None:
    assert loaded_after("import daps_tokenizer.cli.main") == set()
