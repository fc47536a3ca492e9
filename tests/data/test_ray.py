"""Ray, in a process of its own: its threads and the cluster that `--ray auto` looks for stay out of other tests."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.paths import ROOT

SECONDS = 850  # of a machine that does much else


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_a_cluster_of_two_nodes_one_of_which_is_lost() -> None:
    # Plain assertions: Python before 3.11.8 may fail to parse a file while a thread, of Ray, parses another.
    options = ["-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", *options, str(Path(__file__).with_name("ray_cases.py"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0 and "4 passed" in done.stdout, (done.stdout + done.stderr)[-5000:]
