"""The examples of motion run, and the example clip is what its script makes up."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from daps_tokenizer import Clip, Tokenizer
from daps_tokenizer.errors import OutputExistsError
from daps_tokenizer.motion.kinematics import forward_kinematics, joint_limits
from daps_tokenizer.motion.metrics import motion_metrics
from daps_tokenizer.motion.robots import H1 as H1_TABLE
from tests.cli.helpers import ENVIRONMENT
from tests.paths import DATA, EXAMPLES

H1 = DATA / "h1" / "h1_kinematics.xml"


def example(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_walk_is_made_by_its_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = example("make_walk")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "make_walk.py"))
    module.main()
    shipped, made = Clip.load(EXAMPLES / "walk.csv"), Clip.load(tmp_path / "walk.csv")
    np.testing.assert_allclose(shipped.qpos, made.qpos, atol=2e-6)


def test_the_walk_looks_like_one() -> None:
    clip = Clip.load(EXAMPLES / "walk.csv")
    assert (len(clip), clip.fps) == (120, 30.0)
    angles = clip.qpos[:, 7:]
    assert (angles > joint_limits(H1_TABLE)[:, 0]).all() and (angles < joint_limits(H1_TABLE)[:, 1]).all()
    found = motion_metrics(clip.qpos[None], clip.qpos[None], fps=clip.fps)
    assert found["jerk"][0] < 100 and found["foot_sliding"][0] < 5
    feet = forward_kinematics(clip.qpos)
    lowest = np.minimum(feet.position("left_foot")[:, 2], feet.position("right_foot")[:, 2])
    assert lowest.min() > 0.0 and lowest.max() < 0.05  # one foot is always on the ground


def test_variations_are_drawn(random_motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", str(random_motion_folder), "--count", "2", "--gif", str(tmp_path / "v.gif")]
    example("motion_variations").main([str(EXAMPLES / "walk.csv"), *options])
    assert len(Clip.load(tmp_path / "v-2.csv")) == 120 and (tmp_path / "v.gif").read_bytes().startswith(b"GIF89a")
    assert "v-1.csv: log q(z|x) -" in capsys.readouterr().out


def test_a_goal_is_approached(random_motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", str(random_motion_folder), "--samples", "4", "-o", str(tmp_path / "goal.csv")]
    Clip(Clip.load(EXAMPLES / "walk.csv").qpos[:32]).save(tmp_path / "start.csv")
    example("motion_goal").main([str(tmp_path / "start.csv"), "--speed", "0.5", *options])
    assert len(Clip.load(tmp_path / "goal.csv")) == 32
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in printed[:4]] == ["original", "greedy codes", "best of", "local search"]


@pytest.mark.parametrize(("name", "output"), [("motion_goal", "-o"), ("motion_variations", "--gif")])
def test_an_example_overwrites_nothing_and_says_in_one_line_what_is_wrong(
    tmp_path: Path, name: str, output: str
) -> None:
    (tmp_path / "mine.gif").write_text("mine")
    with pytest.raises(OutputExistsError, match=f"mine.gif already exists; name another .* {output}"):
        example(name).main([str(EXAMPLES / "walk.csv"), output, str(tmp_path / "mine.gif")])
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "none.csv"]
    finished = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert finished.stderr == "error: none.csv: no such file; expected the path of a clip, CSV or NPZ\n"
    assert finished.returncode == 1


@pytest.mark.skipif(not H1.is_file(), reason="h1_kinematics.xml is neither in $DAPS_DATA nor ../shared/data")
def test_a_clip_and_its_codes_are_played(
    random_motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mujoco")
    play = example("motion_play").main
    play([str(EXAMPLES / "walk.csv"), str(H1), "--headless"])
    assert "walk.csv', 120 frames at 30 fps, 4.0 s): lowest body 0.0" in capsys.readouterr().out
    model = str(random_motion_folder)
    Tokenizer.from_pretrained(model).encode(EXAMPLES / "walk.csv").save(tmp_path / "walk.daps")
    play([str(tmp_path / "walk.daps"), str(H1), "--headless", "--model", model])
    assert "120 frames" in capsys.readouterr().out
