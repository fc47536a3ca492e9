"""Errors that name a missing package give the command that works for this installation."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

from daps_tokenizer.install import install_command
from tests.paths import ROOT


def installed(folder: Path, direct_url: dict[str, Any] | None) -> None:
    """An installation in a folder, as pip records it."""
    info = folder / "daps_tokenizer-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: daps-tokenizer\nVersion: 0.1.0\n")
    if direct_url is not None:
        (info / "direct_url.json").write_text(json.dumps(direct_url))


@pytest.mark.parametrize(
    ("direct_url", "command"),
    [
        (None, 'pip install "daps-tokenizer[torch]"'),
        ({"url": "file:///some/check%20out", "dir_info": {}}, 'pip install "/some/check out[torch]"'),
        ({"url": "file:///some/out", "dir_info": {"editable": True}}, 'pip install -e "/some/out[torch]"'),
        (
            {"url": "https://host/org/daps.git", "vcs_info": {"vcs": "git", "commit_id": "0" * 40}},
            'pip install "daps-tokenizer[torch] @ git+https://host/org/daps.git"',
        ),
        (
            {"url": "https://host/daps.git", "vcs_info": {"vcs": "git", "requested_revision": "v1", "commit_id": "0"}},
            'pip install "daps-tokenizer[torch] @ git+https://host/daps.git@v1"',
        ),
        (
            {"url": "https://host/daps_tokenizer-0.1.0-py3-none-any.whl", "archive_info": {}},
            'pip install "daps-tokenizer[torch] @ https://host/daps_tokenizer-0.1.0-py3-none-any.whl"',
        ),
    ],
)
def test_the_command_names_what_the_package_was_installed_from(
    direct_url: dict[str, Any] | None, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, direct_url)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert install_command("torch") == command


def test_in_the_checkout_itself_the_command_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, {"url": tmp_path.as_uri(), "dir_info": {}})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert install_command("torch") == 'pip install ".[torch]"'
    assert install_command("export", "train") == 'pip install ".[export,train]"'


def test_a_checkout_that_is_not_installed_names_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", not_installed)
    monkeypatch.chdir(tmp_path)
    assert install_command("torch") == f'pip install -e "{ROOT}[torch]"'
