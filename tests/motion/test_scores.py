"""Scores for goals: higher for motion that is nearer to the goal."""

from types import SimpleNamespace

import numpy as np
import pytest

from daps_tokenizer import Clip
from daps_tokenizer.backends.protocol import Decoded
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.motion.features import compute_features
from daps_tokenizer.motion.scores import away_from, speed, still_feet, together, turning
from tests.paths import EXAMPLES
from tests.settings import MNIST, SMALL_MOTION

TOK = SimpleNamespace(config=SMALL_MOTION)
WALK = Clip.load(EXAMPLES / "walk.csv").qpos[:32]


def value(score, poses: np.ndarray) -> float:  # type: ignore[no-untyped-def]
    features = compute_features(poses, fps=30.0)[None]
    found = score(features, Decoded(features, features, features), np.zeros((1, 64), int))
    assert found.shape == (1,)
    return float(found[0])


def test_speed_and_turning_are_distances_from_the_goal() -> None:
    assert value(speed(TOK, 0.72), WALK) > -0.05 > value(speed(TOK, 1.5), WALK)
    assert value(turning(TOK, 0.18), WALK) > -0.1 > value(turning(TOK, -1.0), WALK)


def test_feet_that_slide_score_lower() -> None:
    sliding = WALK.copy()
    sliding[:, 0] += np.arange(32) * 0.01  # 30 cm/s more
    assert value(still_feet(TOK), WALK) > -15 > -20 > value(still_feet(TOK), sliding)


def test_a_path_scores_lower_where_it_enters_the_circle() -> None:
    assert value(away_from(TOK, (0.4, 0.0), 0.3), WALK) < -0.2
    assert value(away_from(TOK, (0.4, 2.0), 0.3), WALK) == 0.0


def test_scores_add_up_with_their_weights() -> None:
    both = together((2.0, speed(TOK, 1.0)), (0.5, still_feet(TOK)))
    assert value(both, WALK) == pytest.approx(2 * value(speed(TOK, 1.0), WALK) + 0.5 * value(still_feet(TOK), WALK))


def test_a_model_of_images_has_none() -> None:
    with pytest.raises(ConfigError, match="mnist: is no motion model"):
        speed(SimpleNamespace(config=MNIST), 1.0)
