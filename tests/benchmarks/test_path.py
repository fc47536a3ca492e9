"""The path of a clip is measured as it is decoded without and with its corrections."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies.path import WAYS, held_out_stretches, measure_path, write_path
from daps_tokenizer import Clip, InputError, Tokenizer
from daps_tokenizer.evaluation.timing import describe_machine
from tests.paths import EXAMPLES


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained("daps-h1-motion", num_threads=1)


def test_anchors_bring_the_root_back_and_cost_bytes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    clip = Clip.load(EXAMPLES / "walk.csv")
    rows = {row["way"]: row for row in measure_path(tokenizer, [clip])}
    assert tuple(rows) == WAYS
    added, planted, anchored, held = (rows[way] for way in WAYS)
    assert anchored["end_error"] < added["end_error"] and anchored["root_error"] < added["root_error"]
    assert planted["foot_sliding"] < added["foot_sliding"]
    assert held["foot_sliding"] < anchored["foot_sliding"] and held["root_error"] == anchored["root_error"]
    assert added["anchor_bytes"] == planted["anchor_bytes"] == 0 < anchored["anchor_bytes"] < 40
    decoded = tokenizer.decode(tokenizer.encode(clip))
    end = 100 * np.linalg.norm(decoded[0, -1, :3] - clip.qpos[-1, :3])
    assert held["end_error"] == pytest.approx(end)  # the last way is what users get
    content = {"command": "c", "machine": describe_machine(), "model": "m", "weights_sha256": "0" * 64}
    written = write_path(tmp_path, content | {"clips": 1, "seconds": 4.0, "rows": list(rows.values())})
    assert "| feet planted, anchors |" in written[-1].read_text()


def test_a_file_without_the_held_out_clips_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    poses = Clip.load(EXAMPLES / "walk.csv").qpos
    np.savez(tmp_path / "mine.npz", data=poses, split_points=[0, len(poses)], names=["mine"], fps=30.0)
    with pytest.raises(InputError, match="no clip 'dance2_subject2'; expected the clips of LAFAN1"):
        held_out_stretches(tmp_path / "mine.npz", tokenizer, 30.0)
