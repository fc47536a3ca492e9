"""Clips: what is read from files and arrays, what is written, and the one line for each thing that can be wrong."""

import io
from pathlib import Path

import numpy as np
import pytest

from daps_tokenizer import Clip
from daps_tokenizer.data.archives import read_npz
from daps_tokenizer.errors import InputError, OutputExistsError
from daps_tokenizer.motion import clip_files
from daps_tokenizer.motion.clips import load_clips
from daps_tokenizer.motion.robots import H1
from tests.motion.motions import LAFAN, needs_lafan, smooth_motion

WALK = smooth_motion(40)


@pytest.fixture
def walk_csv(tmp_path: Path) -> Path:
    path = tmp_path / "walk.csv"
    np.savetxt(path, WALK, fmt="%.6f", delimiter=",")
    return path


def npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def refusal(inputs: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_clips(inputs, **options)  # type: ignore[arg-type]
    return str(caught.value)


# What is read


def test_a_clip_is_read_from_csv_without_header(walk_csv: Path) -> None:
    clip = Clip.load(walk_csv)
    assert (len(clip), clip.fps, clip.name) == (40, 30.0, str(walk_csv))
    np.testing.assert_allclose(clip.qpos, WALK, atol=1e-6)
    assert repr(clip) == f"Clip({str(walk_csv)!r}, 40 frames at 30 fps, 1.3 s)"


def test_columns_have_names_for_people() -> None:
    assert len(H1.columns) == 26 and H1.columns[6:9] == ("root quaternion w", "left hip yaw", "left hip roll")


@pytest.mark.parametrize("key", ["qpos", "data"])
def test_a_clip_is_read_from_npz_with_its_frame_rate(tmp_path: Path, key: str) -> None:
    clip = Clip.load(npz(tmp_path / "walk.npz", **{key: WALK, "fps": 50}))
    assert clip.fps == 50.0
    np.testing.assert_allclose(clip.qpos, WALK, atol=1e-12)


def test_one_clip_of_many_is_chosen_by_name(tmp_path: Path) -> None:
    path = npz(tmp_path / "all.npz", data=WALK, split_points=[0, 15, 40], names=["run", "walk"], fps=30)
    assert len(Clip.load(path, clip="run")) == 15
    np.testing.assert_allclose(Clip.load(path, clip="walk").qpos, WALK[15:], atol=1e-12)
    assert refusal(path).endswith("all.npz: holds 2 clips, name one of them: run, walk")
    with pytest.raises(InputError, match="there is none named 'jump': run, walk"):
        Clip.load(path, clip="jump")


def test_several_clips_are_read_at_once(walk_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poses = WALK.copy()
    poses[20] = np.nan  # in a clip that nobody asks for
    path = npz(tmp_path / "all.npz", data=poses, split_points=[0, 15, 25, 40], names=["run", "jump", "walk"], fps=50)
    reads: list[str] = []

    def counted(*arguments: object, source: str, **options: object) -> dict[str, np.ndarray]:
        reads.append(source)
        return read_npz(*arguments, source=source, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(clip_files, "read_npz", counted)
    clips = Clip.load_all(path, lambda names: [name for name in reversed(names) if name != "jump"])
    assert reads == [str(path)]
    assert [(clip.name, len(clip), clip.fps) for clip in clips] == [
        (f"{path}: walk", 15, 50.0),
        (f"{path}: run", 15, 50.0),
    ]
    assert [clip.name for clip in Clip.load_all(walk_csv, list)] == [str(walk_csv)]


def test_of_several_clips_the_broken_ones_can_be_left_out(tmp_path: Path) -> None:
    poses = WALK.copy()
    poses[20] = np.nan
    path = npz(tmp_path / "all.npz", data=poses, split_points=[0, 15, 25, 40], names=["run", "jump", "walk"], fps=50)
    errors: list[InputError] = []
    assert [len(clip) for clip in Clip.load_all(path, list, on_error=errors.append)] == [15, 15]
    assert [str(error).startswith(f"{path}: jump: row 6") for error in errors] == [True]
    with pytest.raises(InputError, match="jump: row 6"):
        Clip.load_all(path, list)


def test_anything_that_holds_clips_is_read(walk_csv: Path) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(WALK)
    with walk_csv.open("rb") as file:
        inputs = [walk_csv, str(walk_csv), file, Clip(WALK), WALK, tensor, np.stack([WALK, WALK])]
        clips = load_clips(inputs)
    assert len(clips) == 8
    for clip in clips:
        np.testing.assert_allclose(clip.qpos, WALK, atol=1e-6)


def test_the_frame_rate_is_told_where_the_clip_does_not_say_it(walk_csv: Path, tmp_path: Path) -> None:
    assert [clip.fps for clip in load_clips([walk_csv, WALK], fps=100)] == [100.0, 100.0]
    saying = npz(tmp_path / "walk.npz", qpos=WALK, fps=50)
    assert load_clips(saying, fps=50)[0].fps == 50
    assert refusal(saying, fps=100).endswith("walk.npz: says that it has 50 fps, not 100; leave fps out")
    assert refusal(Clip(WALK, 50.0), fps=100) == "the clip: a Clip of 50 fps, not 100; leave fps out"


def test_a_clip_cannot_be_changed_and_does_not_change_with_the_array_it_came_from() -> None:
    array = WALK.copy()
    clip = Clip(array)
    array[0, 0] = 99.0
    assert clip.qpos[0, 0] != 99.0
    with pytest.raises(ValueError, match="read-only"):
        clip.qpos[0, 0] = 99.0


def test_quaternions_of_float32_become_exact() -> None:
    clip = Clip(WALK.astype(np.float32))
    np.testing.assert_allclose(np.linalg.norm(clip.qpos[:, 3:7], axis=1), 1.0, atol=1e-15)


# What is written


def test_csv_is_written_as_it_came(walk_csv: Path, tmp_path: Path) -> None:
    Clip.load(walk_csv).save(tmp_path / "again.csv")
    again = (tmp_path / "again.csv").read_text().splitlines()
    assert len(again) == 40 and again[0].count(",") == 25
    np.testing.assert_allclose(Clip.load(tmp_path / "again.csv").qpos, Clip.load(walk_csv).qpos, atol=2e-6)


def test_npz_is_written_in_the_layout_it_came_in(tmp_path: Path) -> None:
    many = npz(tmp_path / "all.npz", data=WALK, split_points=[0, 15, 40], names=["run", "walk"], fps=50)
    one = npz(tmp_path / "one.npz", data=WALK, fps=50)
    for clip, keys in (
        (Clip.load(many, clip="walk"), {"data", "split_points", "names", "columns", "fps"}),
        (Clip.load(one), {"data", "fps"}),
        (Clip(WALK, 50.0), {"qpos", "fps"}),
    ):
        clip.save(tmp_path / "again.npz")
        with np.load(tmp_path / "again.npz") as archive:
            assert set(archive.files) == keys
        again = Clip.load(tmp_path / "again.npz")
        assert again.fps == 50.0 and again.file_layout == clip.file_layout
        np.testing.assert_allclose(again.qpos, clip.qpos, atol=1e-6)


def test_nothing_is_overwritten_unless_it_may_be(walk_csv: Path) -> None:
    with pytest.raises(OutputExistsError, match="already exists"):
        Clip(WALK).save(walk_csv, overwrite=False)
    with pytest.raises(InputError, match=r"'\.txt': clips are written as \.csv or \.npz"):
        Clip(WALK).save(walk_csv.with_suffix(".txt"))


# What is wrong with a file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"walk\.csv: is empty; expected rows of 26 \(h1\) or 36 \(g1\) columns: root x y z, "),
        (" \n\n", r"walk\.csv: is empty"),
        ("1;2;3\n", r"row 1 has no commas; expected 26 \(h1\) or 36 \(g1\) columns: .*, separated by commas"),
        ("time,x\n1,2\n", r"row 1 is a header whose 2 names are not those of the h1's or the g1's root and joints"),
        (
            "1,2\n",
            r"row 1 has 2 columns; expected 26 \(h1\) or 36 \(g1\) columns: root x y z, root quaternion x y z w and",
        ),
        ("{good}\n\n{good}", r"row 2, column 1 \(root x\): '' is not a number$"),
        ("{good}\n{good},0.5", r"row 2 has 27 columns"),
        ("{good}\n{words}", r"row 2, column 9 \(left hip roll\): 'bent' is not a number$"),
        ("{good}\n{nan}", r"row 2, column 3 \(root z\): NaN; expected a finite number$"),
        ("{good}\n{inf}", r"row 2, column 26 \(right elbow\): inf; expected a finite number$"),
        ("{good}\n{far}", r"row 2, column 1 \(root x\): 1e\+300; expected metres, from -10,000 to 10,000$"),
        ("{good}\n{long}", r"row 2, columns 4 to 7 \(root quaternion\): a length of 2; expected a unit quaternion"),
        ("{good}\n{none}", r"row 2, columns 4 to 7 \(root quaternion\): a length of 0; expected a unit quaternion"),
        ("{good}\n{degrees}", r"row 2, column 11 \(left knee\): 45; expected an angle in radians"),
        ("{good}", r"has 1 frame; expected at least 2$"),
        (b"\x89PNG\r\n\xff\xfe", r"neither CSV text nor an NPZ archive; expected a clip as one of these"),
        (b"PK\x03\x04 and then no more", r"cannot be read \(.*\); expected an NPZ archive of qpos or data"),
    ],
)
def test_a_bad_file_is_refused_by_row_and_column(tmp_path: Path, text: str | bytes, message: str) -> None:
    good = ["0", "0", "1", "0", "0", "0", "1", *["0.1"] * 19]

    def row(column: int, value: str) -> str:
        return ",".join([*good[:column], value, *good[column + 1 :]])

    rows = {
        "good": ",".join(good),
        "words": row(8, " bent "),
        "nan": row(2, "nan"),
        "inf": row(25, "inf"),
        "far": row(0, "1e300"),
        "long": row(6, "2"),
        "none": row(6, "0"),
        "degrees": row(10, "45"),
    }
    path = tmp_path / "walk.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.format(**rows).encode())
    with pytest.raises(InputError, match=message) as caught:
        Clip.load(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.csv").endswith("none.csv: no such file; expected the path of a clip, CSV or NPZ")
    assert refusal(tmp_path).endswith("is a folder; expected the path of a clip, CSV or NPZ")
    assert "cannot be read" in refusal("a\0b.csv")
    assert refusal(io.StringIO("1,2")) == "the clip: is opened as text; expected a file opened in binary mode"
    archive = npz(tmp_path / "walk.npz", qpos=WALK)
    with archive.open() as text:
        assert refusal(text) == f"{archive}: is opened as text; expected a file opened in binary mode"
    assert "walk.npz: cannot be read (I/O operation on closed file.); expected a clip" in refusal(text)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds nothing; expected an NPZ archive of qpos or data"),
        (
            {"motion": WALK},
            r"holds motion; expected an NPZ archive of qpos or data \(T, 26 or 36\), or joint_pos and body_pos_w",
        ),
        ({"qpos": np.array([{}], object)}, "cannot be read"),
        ({"qpos": WALK.astype(str)}, "values are of type .*; expected floating-point numbers"),
        ({"qpos": WALK[:, :25], "fps": 30}, r"an array of shape \(40, 25\); expected \(T, 26\)"),
        ({"qpos": WALK, "fps": 0}, "fps must be a number from 1 to 1000, not 0"),
        ({"qpos": WALK, "fps": [30, 50]}, "fps must be a number from 1 to 1000, not array"),
        ({"data": WALK, "split_points": [0, 50], "names": ["walk"]}, "do not fit together"),
        ({"data": WALK, "split_points": [0, 40]}, "do not fit together"),
        ({"split_points": [0, 40], "names": ["walk"]}, "do not fit together"),
        ({"data": WALK, "split_points": [0, 40], "names": "walk"}, "do not fit together"),
        ({"data": 40, "split_points": [0, 40], "names": ["walk"]}, "do not fit together"),
        ({"data": WALK, "split_points": [0, 9, 40], "names": ["a", "a"]}, "names has 'a' more than once"),
    ],
)
def test_a_bad_archive_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Clip.load(npz(tmp_path / "walk.npz", **arrays))
    assert str(caught.value).startswith(str(tmp_path / "walk.npz"))


def test_a_file_of_one_clip_has_no_names(tmp_path: Path, walk_csv: Path) -> None:
    for path in (walk_csv, npz(tmp_path / "walk.npz", qpos=WALK)):
        with pytest.raises(InputError, match="is not an archive of many clips, so it has none named 'walk'"):
            Clip.load(path, clip="walk")


# What is wrong with an array


@pytest.mark.parametrize("fps", [0, -30.0, 0.5, 1e9, float("nan"), True, "30", None])
def test_impossible_frame_rates_are_refused(fps: object) -> None:
    with pytest.raises(InputError, match="the clip: fps must be a number from 1 to 1000, not "):
        Clip(WALK, fps)  # type: ignore[arg-type]


def test_bad_arrays_are_refused_by_their_place() -> None:
    bad = WALK.copy()
    bad[7, 12] = np.nan
    assert refusal([WALK, bad]) == "clip 2 of the list: row 8, column 13 (right hip yaw): NaN; expected a finite number"
    assert refusal(np.stack([WALK, bad])).startswith("the clip, number 2: row 8, column 13")
    assert refusal(WALK[0]).startswith("the clip: an array of shape (26,)")
    assert refusal(WALK[:1]) == "the clip: has 1 frame; expected at least 2"
    assert refusal(3).startswith("the clip: expected a path, a file's bytes, an open file, a Clip, an array or tensor")


def test_what_makes_no_array_is_refused() -> None:
    torch = pytest.importorskip("torch")
    assert refusal([WALK, torch.from_numpy(WALK).bfloat16()]) == (
        "clip 2 of the list: a tensor of torch.bfloat16 has no NumPy array; expected float32"
    )
    with pytest.raises(
        InputError, match=r"^the clip: cannot be read \(.*\); expected an array \(T, 26\) or \(T, 36\)$"
    ):
        Clip([[1.0, 2.0], [3.0]])  # type: ignore[arg-type]


@needs_lafan
def test_every_real_clip_is_a_clip() -> None:
    with np.load(LAFAN) as archive:
        names = [str(name) for name in archive["names"]]
    clips = [Clip.load(LAFAN, clip=name) for name in names[:3]]
    assert all(clip.fps == 30 and len(clip) > 1000 for clip in clips)
    np.testing.assert_allclose(
        Clip.from_bytes(clips[0].to_bytes(".csv"), source="csv").qpos, clips[0].qpos, rtol=0, atol=1e-6
    )
