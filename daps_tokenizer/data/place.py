"""Where datasets are looked for, in training, export and benchmarks alike."""

from __future__ import annotations

import os
from pathlib import Path

from daps_tokenizer.errors import InputError


def data_folder(folder: Path | None) -> Path:
    """Where datasets are: the folder given, else ``$DAPS_DATA``, else ``../shared/data``.

    Raises:
        InputError: there is no such folder.
    """
    chosen = folder or default_folder()
    if not chosen.is_dir():
        raise InputError(
            f"{chosen}: no such folder; name the one that holds the datasets with --data or DAPS_DATA, or fill one "
            "with `python -m train data`"
        )
    return chosen


def default_folder() -> Path:
    """``$DAPS_DATA``, else ``../shared/data``."""
    return Path(os.environ.get("DAPS_DATA", "../shared/data"))
