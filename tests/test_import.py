"""The package is light: importing it loads no runtime and no framework."""

import subprocess
import sys

HEAVY = ("torch", "onnx", "onnxruntime", "huggingface_hub", "matplotlib")


def loaded_after(statement: str) -> set[str]:
    command = f"import sys; {statement}; print(*(set(sys.modules) & set({HEAVY})))"
    finished = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    return set(finished.stdout.split())


def test_importing_the_package_loads_no_runtime_and_no_framework() -> None:
    assert loaded_after("import daps_tokenizer") == set()


def test_importing_the_command_line_loads_none_either() -> None:
    assert loaded_after("import daps_tokenizer.cli.main") == set()
