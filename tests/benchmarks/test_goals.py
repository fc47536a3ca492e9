"""A search for a goal is compared with greedy codes, in the goal's own unit."""

import dataclasses
from pathlib import Path

from benchmarks.studies.goals import GOALS, measure_goals, write_goals
from daps_tokenizer import Clip, Tokenizer
from daps_tokenizer.evaluation.timing import describe_machine
from tests.paths import EXAMPLES


def test_a_search_comes_nearer_to_each_goal_than_greedy_codes(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained("daps-g1-motion", num_threads=1)
    clip = Clip.load(EXAMPLES / "walk_g1.csv")
    rows = measure_goals(tokenizer, [dataclasses.replace(clip, qpos=clip.qpos[:32])])
    assert [row["goal"] for row in rows[::4]] == [goal.name for goal in GOALS]
    for goal in range(len(GOALS)):
        greedy, best, local, careful = rows[4 * goal : 4 * goal + 4]
        assert greedy["way"] == "greedy"
        assert max(best["distance"], local["distance"]) <= greedy["distance"]
        assert careful["log_q"] >= local["log_q"]
    content = {"command": "c", "machine": describe_machine(), "model": "m", "weights_sha256": "0" * 64, "seed": 0}
    written = write_goals(tmp_path, content | {"clips": 1, "seconds": 1.0, "rows": rows})
    assert "| walk forward at 1 m/s | greedy |" in written[-1].read_text()
