"""daps-tokenize on motion: clips to codes and back, pictures of them, and the one line where something is wrong."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daps_tokenizer import Clip, Codes, Tokenizer
from daps_tokenizer import hub as hub_module
from daps_tokenizer.install import install_command
from tests.cli.helpers import refusal, run, run_well
from tests.motion.motions import smooth_motion


@pytest.fixture(autouse=True)
def walk(workplace: Path) -> None:
    """The current folder has a walk.csv of 40 frames, with a foot near enough to the ground to raise no doubts."""
    poses = smooth_motion(40)
    poses[:, 2] -= 0.3
    Clip(poses).save("walk.csv")


@pytest.fixture
def motion_model(random_motion_folder: Path) -> str:
    return str(random_motion_folder)


@pytest.fixture
def motion_tok(motion_model: str) -> Tokenizer:
    return Tokenizer.from_pretrained(motion_model)


@pytest.fixture
def built_in_both(
    random_mnist_folder: Path,
    random_motion_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The built-in models are the default ones, by name."""
    folder = tmp_path_factory.mktemp("pretrained")
    for source, name in ((random_mnist_folder, "daps-photo-256"), (random_motion_folder, "daps-h1-motion")):
        shutil.copytree(source, folder / name)
        config = folder / name / "config.json"
        config.write_text(config.read_text().replace(source.name, name))
    monkeypatch.setattr(hub_module, "_BUILT_IN_FOLDER", folder)


def test_the_kind_of_file_decides_the_model(built_in_both: None) -> None:
    printed = run_well("encode", "walk.csv", "digit.png").stdout.splitlines()
    assert printed[0].startswith("walk.csv -> walk.daps  30 fps assumed, 2 x 64 codes of 6 bits, 768 bits (surprisal ")
    assert ", daps-h1-motion, " in printed[0] and ", daps-photo-256, " in printed[1]
    back = run_well("decode", "walk.daps", "-o", "back.csv").stdout
    assert back.startswith("walk.daps -> back.csv  40 frames at 30 fps, daps-h1-motion, ")
    assert len(Clip.load("back.csv")) == 40
    assert run_well("walk.csv", "--force").stdout.startswith("walk.csv -> walk.daps")
    assert run_well("walk.daps").stdout.startswith("walk.daps -> walk.decoded.csv  40 frames")


def test_encode_and_decode_are_what_the_tokenizer_does(motion_tok: Tokenizer, motion_model: str) -> None:
    options = ["--overlap", 8, "--fps", 50]
    run_well("encode", "walk.csv", *options, "--model", motion_model)
    codes = Codes.load("walk.daps")
    assert codes == motion_tok.encode("walk.csv", overlap=8, fps=50)
    record = json.loads(run_well("decode", "walk.daps", "-o", "back.npz", "--model", motion_model, "--json").stdout)
    assert (record["frames"], record["fps"], record["outputs"]) == (40, 50.0, ["back.npz"])
    clip = Clip.load("back.npz")
    assert clip.fps == 50
    np.testing.assert_allclose(clip.qpos, motion_tok.decode(codes)[0], atol=1e-12)


def test_clips_go_through_pipes(motion_model: str) -> None:
    codes = run_well("encode", "-", "--model", motion_model, stdin=Path("walk.csv").read_bytes()).stdout_bytes
    clip = run_well("decode", "-", "--model", motion_model, stdin=codes).stdout_bytes
    assert len(Clip.from_bytes(clip, source="pipe")) == 40


def test_standard_input_is_a_clip_where_it_begins_like_one(built_in_both: None) -> None:
    Clip.load("walk.csv").save("walk.npz")
    for file in ("walk.csv", "walk.npz"):
        codes = run_well("-", stdin=Path(file).read_bytes())
        assert ", daps-h1-motion, " in codes.stderr
        assert "40 frames at 30 fps, daps-h1-motion" in run_well("-", stdin=codes.stdout_bytes).stderr
    assert ", daps-photo-256, " in run_well("-", stdin=Path("digit.png").read_bytes()).stderr


def test_a_frame_rate_that_is_assumed_is_said(motion_model: str) -> None:
    assumed = run_well("reconstruct", "walk.csv", "--model", motion_model).stdout
    assert " cm, 30 fps assumed, 768 bits" in assumed
    said = run_well("encode", "walk.csv", "--fps", 30, "--model", motion_model).stdout
    Clip.load("walk.csv").save("walk.npz")
    known = run_well("encode", "walk.npz", "--force", "--model", motion_model).stdout
    assert "assumed" not in said and "assumed" not in known


def test_one_clip_of_many_is_chosen(motion_model: str) -> None:
    data = smooth_motion(80)
    np.savez("all.npz", data=data, split_points=[0, 35, 80], names=["run", "jump"], fps=30)
    run_well("encode", "all.npz", "--clip", "jump", "--model", motion_model)
    assert Codes.load("all.daps").layout.frames == 45  # type: ignore[union-attr]
    message = refusal("encode", "all.npz", "--force", "--model", motion_model)
    assert message == "all.npz: holds 2 clips, name one of them: run, jump"


def test_several_clips_become_several_files(motion_tok: Tokenizer, motion_model: str) -> None:
    motion_tok.sample("walk.csv", num_samples=2).save("walks.daps")
    line = run_well("decode", "walks.daps", "--model", motion_model).stdout
    assert "walks.decoded-0.csv ... walks.decoded-1.csv  2 clips of 40 frames at 30 fps" in line
    assert Path("walks.decoded-1.csv").is_file()


def test_reconstruct_writes_the_clip_and_says_how_far_off_it_is(motion_tok: Tokenizer, motion_model: str) -> None:
    result = run_well("reconstruct", "walk.csv", "--search", 1, "--model", motion_model, "--json")
    record = json.loads(result.stdout)
    clip = Clip.load("walk.reconstruction.csv")
    error = np.degrees(np.abs(clip.qpos[:, 7:] - smooth_motion(40)[:, 7:]).mean())
    assert record["joint_error"] == pytest.approx(error, abs=1e-3) and record["root_error"] > 0
    assert record["search"]["decodes"] == 66
    line = run_well("reconstruct", "walk.csv", "--search", 1, "--force", "--model", motion_model).stdout
    assert (
        line.startswith("walk.csv -> walk.reconstruction.csv  joints off by ")
        and " nats over greedy codes, 66 decodes, " in line
    )


def test_reconstruct_draws_stick_figures_and_joints(motion_model: str) -> None:
    pictures = ["--gif", "walk.gif", "--plot", "joints.png"]
    line = run_well("reconstruct", "walk.csv", *pictures, "--model", motion_model).stdout
    assert line.startswith("walk.csv -> walk.reconstruction.csv, walk.gif, joints.png  joints off by ")
    with Image.open("walk.gif") as gif:
        assert gif.n_frames == 34 and gif.info["duration"] == 40 and gif.size == (480, 260)  # type: ignore[attr-defined]
    with Image.open("joints.png") as plot:
        assert plot.size[0] > 800
    message = refusal("reconstruct", "walk.csv", "-o", "b.csv", "--gif", "walk.gif", "--model", motion_model)
    assert message.endswith("walk.gif already exists; pass --force to overwrite it or name another with --gif")


def test_show_draws_a_row_of_codes_for_each_window(motion_model: str) -> None:
    printed = run_well("encode", "walk.csv", "--show", "--model", motion_model).stdout
    assert "codes, 0 to 63" in printed and "surprisal" in printed


def test_without_matplotlib_one_line_says_so(motion_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.backends.backend_agg", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    message = refusal("reconstruct", "walk.csv", "--plot", "joints.png", "--model", motion_model)
    assert message.endswith(f"which is not installed; install it with {install_command('motion')}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "walk.csv", "--fit", "pad"], "is a model of motion; --fit is for images"),
        (["encode", "walk.csv", "--fps", "0"], "walk.csv: fps must be a number from 1 to 1000, not 0.0"),
        (["encode", "walk.csv", "--overlap", "32"], "overlap of windows of 32 frames must be an integer from 0 to 31"),
        (
            ["encode", "walk.csv", "--clip", "run"],
            "walk.csv: is not an archive of many clips, so it has none named 'run'",
        ),
        (["encode", "digit.png"], "digit.png: neither CSV text nor an NPZ archive"),
        (["reconstruct", "walk.csv", "--compare"], "--compare is not for clips"),
        (["reconstruct", "walk.csv", "--gif", "walk.png"], "--gif walk.png: expected a name that ends with .gif"),
        (["reconstruct", "walk.csv", "--gif", "-"], "--gif and --plot write files"),
        (["reconstruct", "walk.csv", "-o", "a.png"], "-o a.png: expected a name that ends with .csv or .npz"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(motion_model: str, arguments: list[str], message: str) -> None:
    assert message in refusal(*arguments, "--model", motion_model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "digit.png", "--overlap", "2"], "is a model of images; --overlap is for files of motion"),
        (["encode", "digit.png", "--fps", "30"], "is a model of images; --fps is for files of motion"),
        (["encode", "digit.png", "--clip", "run"], "is a model of images; --clip is for files of motion"),
        (["reconstruct", "digit.png", "--gif", "a.gif"], "--gif is not for images"),
        (["reconstruct", "digit.png", "-o", "a.csv"], "-o a.csv: expected a name that ends with .png"),
    ],
)
def test_images_have_no_options_of_motion(model: str, arguments: list[str], message: str) -> None:
    assert message in refusal(*arguments, "--model", model)


def test_a_bad_clip_among_others_does_not_stop_them(motion_model: str) -> None:
    rows = Path("walk.csv").read_text().splitlines()
    Path("bad.csv").write_text("\n".join([*rows[:4], "nan" + rows[4][rows[4].index(",") :]]))
    result = run("encode", "bad.csv", "walk.csv", "--model", motion_model)
    assert result.exit_code == 2 and result.stdout.startswith("walk.csv -> ")
    assert result.stderr == "error: bad.csv: row 5, column 1 (root x): NaN; expected a finite number\n"


@pytest.mark.parametrize("name", ["walk.csv", "walk.npz"])
def test_a_pipe_in_place_of_a_clip_is_refused_and_not_waited_for(name: str) -> None:
    Path(name).unlink(missing_ok=True)
    os.mkfifo(name)
    assert f"{name}': cannot be read (not a regular file)" in refusal("encode", name)
