"""The structure of the code: which folder may import which, and no two files that import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.paths import ROOT

# From the ground up: a file imports from its own floor or from those below. The longest prefix counts.
FLOORS = (
    ("daps_tokenizer.errors", "daps_tokenizer.install"),
    ("daps_tokenizer.checks", "daps_tokenizer.files", "daps_tokenizer.hub_transfer", "daps_tokenizer.locks"),
    ("daps_tokenizer.config",),
    ("daps_tokenizer.backends.protocol", "daps_tokenizer.neighbourhoods", "daps_tokenizer.hub"),
    ("daps_tokenizer.codes", "daps_tokenizer.inputs", "daps_tokenizer.images.arrays", "daps_tokenizer.language"),
    ("daps_tokenizer.images", "daps_tokenizer.motion", "daps_tokenizer.data.archives"),
    ("daps_tokenizer.modalities", "daps_tokenizer.model"),
    ("daps_tokenizer.backends", "daps_tokenizer.search"),
    ("daps_tokenizer.tokenizer", "daps_tokenizer.generator"),
    ("daps_tokenizer.ways", "daps_tokenizer.motion.generation"),
    ("daps_tokenizer.data", "daps_tokenizer.evaluation"),
    ("daps_tokenizer.cli", "daps_tokenizer.__main__"),
    ("train", "export"),
    ("benchmarks",),
)
FILES = sorted(
    path for folder in ("daps_tokenizer", "train", "export", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in FILES}


def imports_of(path: Path) -> set[str]:
    """The project's own modules that a file imports, anywhere in it, but not for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    types_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in types_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (submodules & NAMES) or {node.module}
    return found & NAMES - {name_of(path), "daps_tokenizer"}  # the package's face hands names on


def floor_of(name: str) -> int:
    known = {prefix: floor for floor, prefixes in enumerate(FLOORS) for prefix in prefixes}
    fitting = [prefix for prefix in known if name == prefix or name.startswith(prefix + ".")]
    assert fitting, f"{name} stands on no floor: add it to FLOORS"
    return known[max(fitting, key=len)]


@pytest.mark.parametrize("path", [path for path in FILES if name_of(path) != "daps_tokenizer"], ids=name_of)
def test_imports_never_point_up(path: Path) -> None:
    above = [name for name in sorted(imports_of(path)) if floor_of(name) > floor_of(name_of(path))]
    assert not above, f"{name_of(path)} imports from above: {', '.join(above)}"


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {name_of(path): imports_of(path) for path in FILES}
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for imported in sorted(graph[name]):
                walk(imported, [*trail, name])
            done.add(name)

    for name in sorted(graph):
        walk(name, [])
