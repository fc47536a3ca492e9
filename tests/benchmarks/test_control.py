"""A simulated G1 stands, follows what codes decode to, is searched for with physics as the score, and learns."""

import json
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from benchmarks.__main__ import main
from benchmarks.studies.control import command
from benchmarks.studies.control.coded import lowered, placed
from benchmarks.studies.control.follow import Controller, ExportedPolicy, follow
from benchmarks.studies.control.imagined import ImaginedConfig, ImaginedTrainer
from benchmarks.studies.control.measure import choose_stretches, follow_stretches
from benchmarks.studies.control.policy import NoCondition, Policy, WindowCodes, export_policy
from benchmarks.studies.control.ppo import PPOConfig, PPOTrainer
from benchmarks.studies.control.reference import HELD_OUT, Reference, load_g1_clips
from benchmarks.studies.control.robot import ACTIVE, Physics, Robot, states
from benchmarks.studies.control.search import Leaning, PhysicsScore, Ran, run_codes
from benchmarks.studies.control.tracking import Tracking
from benchmarks.studies.control.training import load_network
from daps_tokenizer import BestOf, Clip, Codes, Tokenizer
from daps_tokenizer.backends.torch import TorchBackend
from daps_tokenizer.config import MotionConfig, NormalisationConfig
from daps_tokenizer.errors import InputError
from daps_tokenizer.hub import ModelFolder
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.motion.features import compute_features, feature_table
from daps_tokenizer.motion.robots import G1
from tests.motion.test_motion_examples import example
from tests.paths import DATA, EXAMPLES, ROOT
from tests.settings import SMALL_MOTION

MJCF = DATA / "g1" / "g1_kinematics.xml"
pytestmark = pytest.mark.skipif(
    not MJCF.is_file(), reason="g1_kinematics.xml is neither in $DAPS_DATA nor ../shared/data"
)
STANDING = np.array([0, 0, 0.793, 0, 0, 0, 1, *np.zeros(29)])


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot(MJCF)


@pytest.fixture(scope="module")
def standing(robot: Robot) -> Reference:
    """Four seconds of standing, at 30 fps before, as a clip."""
    return Reference.from_clips(robot, [np.tile(STANDING, (120, 1))])


@pytest.fixture(scope="module")
def walk(robot: Robot) -> Reference:
    (clip,) = load_g1_clips(DATA / "lafan1_g1.npz", ["walk1_subject5"])
    return Reference.from_clips(robot, [clip[600:900]])


def test_only_feet_touch_the_floor_and_torques_keep_their_limits(robot: Robot) -> None:
    model = robot.model
    touching = [i for i in range(model.ngeom) if model.geom_conaffinity[i]]
    assert {int(model.geom_type[i]) for i in touching} == {int(mujoco.mjtGeom.mjGEOM_SPHERE)} and len(touching) == 8
    physics = Physics(robot)
    state = states(model.qpos0[None], np.zeros((1, model.nv)))
    _, sensors = physics.run(state, np.full((1, 5, 29), 3.0))  # targets far away
    assert (np.abs(sensors[..., 21:]) <= robot.torque_limits + 1e-9).all()


def test_a_clip_at_50_fps_has_the_velocities_of_its_poses(robot: Robot) -> None:
    clip = np.tile(STANDING, (31, 1))
    clip[:, 0] = np.arange(31) / 30  # a metre in a second
    reference = Reference.from_clips(robot, [clip])
    assert len(reference) == 51
    np.testing.assert_allclose(reference.qvel[:, 0], 1.0, atol=1e-9)
    np.testing.assert_allclose(reference.qpos[0, 3:7], [1, 0, 0, 0])  # MuJoCo's order
    assert reference.key_positions[0, 2] == pytest.approx(-0.755, abs=0.01)  # the left foot under the pelvis


def test_servos_alone_stand_and_do_not_walk(robot: Robot, standing: Reference, walk: Reference) -> None:
    stood = follow(Tracking(Physics(robot), standing, 1, noise=0, restart=False), np.array([0]), seconds=3)
    assert stood.seconds[0] == pytest.approx(3.0) and not stood.fell[0]
    assert stood.reward[0] > 0.8
    walked = follow(Tracking(Physics(robot), walk, 2, noise=0, restart=False), np.array([0, 50]), seconds=3)
    assert walked.fell.all() and (walked.seconds < 2).all()
    assert np.isnan(walked.poses[0, -1]).all() and np.isfinite(walked.last).all()


def test_robots_in_a_batch_do_what_each_does_alone(robot: Robot, walk: Reference) -> None:
    frames = np.array([10, 60, 110])
    together = follow(Tracking(Physics(robot), walk, 3, noise=0, restart=False), frames, seconds=0.4)
    for number in range(3):
        single = Tracking(Physics(robot), walk, 1, noise=0, restart=False)
        alone = follow(single, frames[number : number + 1], seconds=0.4)
        np.testing.assert_allclose(together.poses[number], alone.poses[0], atol=1e-9)


def test_a_start_on_the_reference_sees_no_error_and_a_fall_starts_anew(robot: Robot, walk: Reference) -> None:
    tracking = Tracking(Physics(robot), walk, 4, noise=0)
    observation = tracking.reset(np.array([0, 30, 60, 90]))
    assert observation.dtype == np.float32
    np.testing.assert_allclose(observation[:, -10:], 0, atol=1e-6)  # reference less robot
    tracking.state[1, 3] = 0.2  # a pelvis on the floor
    step = tracking.step(np.zeros((4, ACTIVE)))
    assert step.fell.tolist() == [False, True, False, False] and step.ended[1]
    assert tracking.state[1, 3] > 0.6 and tracking.began[1] == tracking.frame[1]
    assert step.reward.shape == (4,) and (step.reward <= 1).all()


def test_an_action_takes_five_control_steps_in_a_straight_line(robot: Robot, walk: Reference) -> None:
    tracking, twin = (Tracking(Physics(robot), walk, 2, noise=0) for _ in range(2))
    for each in (tracking, twin):
        each.reset(np.array([0, 30]))
    seen = []
    for number in range(5):  # what is asked within these steps does not count
        step = tracking.step(np.full((2, ACTIVE), 1.0 if number == 0 else 9.0))
        seen.append((tracking.action[0, 0], step.reward))
    np.testing.assert_allclose([correction for correction, _ in seen], [0.2, 0.4, 0.6, 0.8, 1.0])
    acted = twin.act(np.ones((2, ACTIVE)))
    np.testing.assert_allclose(twin.state, tracking.state)
    np.testing.assert_allclose(acted.reward, np.mean([reward for _, reward in seen], 0))
    np.testing.assert_array_equal(acted.observation, acted.last)

    twin.state[1, 3] = 0.2  # a pelvis on the floor
    acted = twin.act(np.ones((2, ACTIVE)))
    assert acted.fell.tolist() == acted.ended.tolist() == [False, True]
    assert acted.reward[1] < acted.reward[0] / 2 and (twin.goal[1] == 0).all() and acted.last[1, 0] < 0.3


def test_windows_are_placed_where_the_robot_is() -> None:
    windows = np.tile(STANDING, (1, 3, 1))
    windows[0, :, 0] = [0, 1, 2]  # along x
    start = STANDING.copy()
    start[:3], start[3:7] = [5, 6, 0.7], [0, 0, np.sqrt(0.5), np.sqrt(0.5)]  # facing along y
    moved = placed(windows, start)
    np.testing.assert_allclose(moved[0, :, :3], [[5, 6, 0.793], [5, 7, 0.793], [5, 8, 0.793]], atol=1e-9)
    np.testing.assert_allclose(moved[0, 0, 3:7], start[3:7], atol=1e-9)


@pytest.mark.parametrize("by", [ImaginedTrainer, PPOTrainer])
def test_training_resumes_where_it_was_and_the_policy_runs_from_onnx(
    by: type[ImaginedTrainer] | type[PPOTrainer], robot: Robot, walk: Reference, tmp_path: Path
) -> None:
    torch.manual_seed(0)

    def trainer(steps: int) -> ImaginedTrainer | PPOTrainer:
        tracking = Tracking(Physics(robot), walk, 4)
        policy = Policy(tracking.reset().shape[1], NoCondition(), hidden=(16, 8), deviation=0.5)
        made: ImaginedTrainer | PPOTrainer
        if by is PPOTrainer:
            made = PPOTrainer(tracking, policy, PPOConfig(horizon=4, epochs=1, minibatch=8), tmp_path)
        else:
            config = ImaginedConfig(horizon=4, kept=3, recent=0, dynamics=(2, 8, 3), policy=(2, 8, 2))
            made = ImaginedTrainer(tracking, policy, config, tmp_path)
        made.train(max_seconds=60, max_steps=steps)
        return made

    first, second = trainer(160), trainer(240)
    assert (first.steps, second.steps) == (160, 240)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["steps"] for line in lines] == [80, 160, 240]
    moments = [trained.optimisers["policy"].state_dict()["state"] for trained in (first, second)]
    counts = [max(parts["step"].item() for parts in states.values()) for states in moments]
    assert counts == [4, 6]  # Adam's own count was resumed

    with (tmp_path / "log.jsonl").open("a") as log:  # a run that was stopped before it saved, and resumed
        log.write(lines[1] + "\n")
    result = CliRunner().invoke(main, ["control", "curve", "--run", str(tmp_path), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    curve = json.loads((tmp_path / "control_training.json").read_text())
    assert [row["steps"] for row in curve["rows"]] == [80, 160]
    assert (tmp_path / "control_training.png").is_file()

    policy = second.policy.eval()
    export_policy(policy, tmp_path / "policy.onnx")
    assert str(ROOT).encode() not in (tmp_path / "policy.onnx").read_bytes(), "traces of where it was exported"
    tracking = Tracking(Physics(robot), walk, 3, noise=0, restart=False)
    observation = tracking.reset(np.array([0, 20, 40]))
    exported = ExportedPolicy(tmp_path / "policy.onnx")
    control = exported(np.zeros((1, 64), np.int32), np.zeros(len(walk)))
    with torch.no_grad():
        expected, _ = policy(policy.normalise(torch.from_numpy(observation)), torch.zeros(3, 1))
    np.testing.assert_allclose(control(observation, tracking.frame), expected.numpy(), atol=1e-5)


def test_a_policy_takes_codes_up_without_a_jump(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codes = WindowCodes(torch.randint(9, (2, 12)), torch.tensor([0.0, 0.5, 1.0, 1.5]), torch.randn(12, 9, 4))
    bare, coded = (Policy(7, seen, hidden=(16, 8), deviation=1.0) for seen in (NoCondition(), codes))
    save_file(bare.state_dict(), tmp_path / "policy.safetensors")
    load_network(coded, tmp_path / "policy.safetensors")
    observation, frames = torch.randn(4, 7), torch.arange(4)
    before, _ = bare(observation, bare.condition(frames))
    after, _ = coded(observation, coded.condition(frames))
    torch.testing.assert_close(before, after)
    assert not torch.equal(coded.condition(frames)[0], coded.condition(frames)[1])  # where in the window it is, is seen


@pytest.fixture(scope="module")
def tok(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A model of random weights whose motions are all near standing."""
    torch.manual_seed(0)
    features = compute_features(STANDING[None], fps=30.0, robot=G1)[0]
    config = replace(
        SMALL_MOTION,
        input_shape=(32, len(features)),
        num_tokens=64,
        normalisation=NormalisationConfig(tuple(features.tolist()), (0.02,) * len(features)),
        motion=MotionConfig(30.0, G1.joint_names, feature_table(G1).names, robot=G1),
    )
    backend = TorchBackend(Autoencoder(config).eval().requires_grad_(False), device="cpu", dtype=torch.float32)
    return Tokenizer(ModelFolder(tmp_path_factory.mktemp("unused"), config), backend)


def test_codes_of_standing_are_followed_and_searched_with_physics_as_the_score(
    robot: Robot, standing: Reference, tok: Tokenizer
) -> None:
    physics = Physics(robot)
    features = compute_features(np.tile(STANDING, (1, 64, 1)), fps=30.0, robot=G1)
    ran = run_codes(
        tok, physics, standing, features, seconds=0.5, advance=6, search=lambda score: BestOf(2, score=score)
    )
    assert ran.seconds[0] == 0.5 and ran.reward[0] > 0.5 and np.isfinite(ran.poses).all()

    start = np.zeros(1, np.int64)
    score = PhysicsScore(tok, physics, standing, states(standing.qpos[start], standing.qvel[start]), start)
    window = features[:, :32]
    greedy = tok.encode(window).numpy()
    (value,) = score(window, tok.decode_distribution(greedy), greedy)
    assert 0.5 < value < 1
    for search in (BestOf(3, temperature=2.0, score=score), Leaning(score, G1, candidates=4, rounds=2)):
        found = tok.search(window, search)
        (better,) = score(window, tok.decode_distribution(found.codes), found.codes.numpy())
        assert found.gain[0] >= 0 and better == pytest.approx(value + found.gain[0])


def test_a_policy_sees_the_codes_of_each_frame_and_corrects_what_greedy_codes_do(robot: Robot, tok: Tokenizer) -> None:
    seen = []

    class Doing(ExportedPolicy):
        def __init__(self, action: float) -> None:
            self.action = action

        def __call__(self, codes: np.ndarray, place: np.ndarray) -> Controller:
            seen.append((codes, place))
            return lambda observation, frames: np.full((len(observation), ACTIVE), self.action)

    def run(way: str, policy: ExportedPolicy | None = None) -> Ran:
        stretches = np.tile(STANDING, (2, 40, 1))
        return follow_stretches(tok, Physics(robot), stretches, way, seconds=0.4, policy=policy)[0]

    greedy, idle, pushed = run("greedy"), run("policy", Doing(0.0)), run("policy", Doing(1.0))
    np.testing.assert_array_equal(greedy.poses, idle.poses)
    assert np.abs(pushed.poses - greedy.poses).max() > 0.01
    codes, place = seen[0]
    assert codes.shape == (4, 64)  # two stretches of 44 frames, which are two windows each
    assert place[0] == 0 and 0.99 < place[53] < 1 < place[54] and place[len(place) // 2] == 2
    with pytest.raises(InputError, match="no policy to follow codes with"):
        run("policy")


def test_the_shipped_policy_stands_longer_than_servos_alone_on_the_same_codes(robot: Robot) -> None:
    (clip,) = load_g1_clips(DATA / "lafan1_g1.npz", [HELD_OUT["walk"]])
    clip = lowered(robot, clip)
    tokenizer = Tokenizer.from_pretrained("daps-g1-motion")
    stretches = np.stack([clip[start : start + 92] for start in range(300, 6300, 1000)])
    policy = ExportedPolicy(Path(command.__file__).parent / "walk.onnx")
    servos, _ = follow_stretches(tokenizer, Physics(robot), stretches, "greedy", seconds=2)
    stood, _ = follow_stretches(tokenizer, Physics(robot), stretches, "policy", seconds=2, policy=policy)
    assert stood.seconds.mean() > 1.5 * servos.seconds.mean()


def test_the_example_draws_the_motion_and_the_robot_that_follows_it(
    tok: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = example("motion_control")
    with pytest.raises(InputError, match="a motion of the h1; expected one of the Unitree G1"):
        module.main([str(EXAMPLES / "walk.csv"), "--model", "daps-h1-motion", "--mjcf", str(MJCF)])
    monkeypatch.setattr(Tokenizer, "from_pretrained", lambda model: tok)  # no model of random weights is shipped
    Clip(np.tile(STANDING, (40, 1)), robot=G1).save(tmp_path / "stand.csv")
    module.main([str(tmp_path / "stand.csv"), "--mjcf", str(MJCF), "--seconds", "0.4", "-o", str(tmp_path / "a.gif")])
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 11 and picture.width == 480  # 0.4 s at 25 fps, two figures

    def draw(generator: object, tokenizer: Tokenizer, text: str, *, seconds: float, seed: int) -> Codes:
        assert (generator, text, seconds, seed) == ("the generator", "stand still", 0.4, 3)
        return tokenizer.encode(tmp_path / "stand.csv")

    monkeypatch.setattr(module, "sample_motion", draw)
    monkeypatch.setattr(module.Generator, "from_pretrained", lambda name: "the generator")
    words = ["--text", "stand still", "--seed", "3", "--mjcf", str(MJCF), "--seconds", "0.4"]
    module.main([*words, "-o", str(tmp_path / "b.gif")])
    assert (tmp_path / "b.gif").is_file()
    for neither_or_both in ([], [str(tmp_path / "stand.csv"), *words]):
        with pytest.raises(InputError, match="expected either a clip or codes to follow, or --text"):
            module.main(neither_or_both)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["train", "--run", "{tmp}", "--clip", "walk9"], "no clip 'walk9'"),
        (["measure", "--model", "daps-mnist"], "no model of the Unitree G1's motion"),
        (["measure", "--model", "daps-h1-motion"], "no model of the Unitree G1's motion"),
        (["measure", "--model", "daps-mnist", "--walks", "0", "--dances", "0", "--runs", "0"], "no stretches"),
        (["export", "--run", "{tmp}", "-o", "{tmp}/p.onnx"], "expected a policy"),
        (["curve", "--run", "{tmp}"], "expected the log"),
    ],
)
def test_a_wrong_command_gets_one_line(arguments: list[str], reason: str, tmp_path: Path) -> None:
    given = ["control", *(argument.format(tmp=tmp_path) for argument in arguments)]
    if given[1] not in ("export", "curve"):
        given += ["--data", str(DATA)]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 2 and reason in result.output and len(result.output.splitlines()) == 1


def test_a_file_that_is_no_policy_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"x\.onnx.*is no policy"):
        ExportedPolicy(tmp_path / "x.onnx")


def test_stretches_are_those_of_an_upright_robot() -> None:
    clip = np.tile(STANDING, (100, 1))
    clip[40:60, 2] = 0.3
    starts = choose_stretches(clip, 20, 30, np.random.default_rng(0))
    assert all(start <= 10 or 60 <= start <= 70 for start in starts)
