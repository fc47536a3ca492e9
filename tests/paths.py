"""Where tests find the repository, its examples and the shared datasets."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
DATA = Path(os.environ.get("DAPS_DATA", ROOT.parent / "shared" / "data"))
