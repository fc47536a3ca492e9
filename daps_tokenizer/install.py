"""The command that installs more of this package, for errors that name what is missing."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

_NAME = "daps-tokenizer"


def install_command(*extras: str) -> str:
    """The ``pip install`` command that adds extras to this installation.

    A package index may not have this package, so the command names what it was installed from: the checkout, a URL, or
    an index.

    >>> install_command("torch")  # doctest: +SKIP
    'pip install ".[torch]"'
    """
    wanted = f"[{','.join(extras)}]" if extras else ""
    try:
        recorded = importlib.metadata.distribution(_NAME).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return _from_folder(Path(__file__).parents[1], wanted, editable=True)
    return _command(json.loads(recorded) if recorded else None, wanted)


def _command(direct_url: dict[str, Any] | None, wanted: str) -> str:
    """The command for what pip recorded in ``direct_url.json`` (PEP 610); None where an index was used."""
    if direct_url is None:
        return f'pip install "{_NAME}{wanted}"'
    url: str = direct_url["url"]
    if "dir_info" in direct_url:
        folder = Path(url2pathname(urlparse(url).path))
        return _from_folder(folder, wanted, editable=direct_url["dir_info"].get("editable", False))
    if "vcs_info" in direct_url:
        source = direct_url["vcs_info"]
        revision = source.get("requested_revision")
        url = f"{source['vcs']}+{url}" + (f"@{revision}" if revision else "")
    return f'pip install "{_NAME}{wanted} @ {url}"'


def _from_folder(folder: Path, wanted: str, *, editable: bool) -> str:
    here = Path.cwd().resolve() == folder.resolve()
    return f'pip install {"-e " if editable else ""}"{"." if here else folder}{wanted}"'
