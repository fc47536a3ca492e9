"""Several processes: told how many they are, never twice the same training, and never two in one folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.state import PartialState

from daps_tokenizer.errors import ConfigError, InUseError
from tests.paths import ROOT
from tests.train.test_training import experiment, run
from train.processes import describe_processes, join_processes, locked

pytestmark = pytest.mark.usefixtures("one_thread")


def test_one_process_says_that_it_is_alone() -> None:
    assert describe_processes(Accelerator(cpu=True)) == "1 process on CPU"


def test_a_process_that_was_told_of_others_and_trains_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    PartialState()  # Accelerate has looked before WORLD_SIZE was set, so it counts one process
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = r"WORLD_SIZE is 2, but this process trains alone.*`torchrun --nproc-per-node 2 -m train fit CONFIG`"
    with pytest.raises(ConfigError, match=message):
        join_processes()


@pytest.mark.slow
def test_processes_that_cannot_find_each_other_are_told_the_command(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("MASTER_ADDR", "MASTER_PORT")}
    found = subprocess.run(
        [sys.executable, "-c", "from train.processes import join_processes; join_processes()"],
        cwd=ROOT,
        env=environment | {"WORLD_SIZE": "2", "RANK": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ConfigError: WORLD_SIZE is 2, but its processes cannot be joined" in found.stderr
    assert found.stderr.strip().endswith("start them with `torchrun --nproc-per-node 2 -m train fit CONFIG`")


def test_a_second_training_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        expected = rf"run: process {os.getpid()} trains here; wait until it ends, or choose another folder"
        with pytest.raises(InUseError, match=expected):
            run(experiment(steps=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()  # the lock left nothing behind
    assert run(experiment(steps=1), tmp_path / "run")["steps"] == 1


def test_the_lock_of_a_process_that_was_killed_does_not_block(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from train.processes import locked\n"
        f"with locked(Path({str(tmp_path / 'run')!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert killed.returncode == -9 and (tmp_path / "run" / ".lock").exists()
    with locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()
