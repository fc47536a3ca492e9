"""web/daps.js and web/motion.js in Node: what they compute is what the Python package computes."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest
from PIL import Image

from daps_tokenizer import Codes, Generator, Tokenizer
from daps_tokenizer.hub import built_in_generators, open_generator, open_model
from daps_tokenizer.images.load import fit_image, load_images
from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.motion.features import compute_features, standing
from daps_tokenizer.motion.robots import G1, H1, robot_of
from export.web import robot_table
from tests.paths import EXAMPLES
from tests.reference.cases import CASES, SEED, Case, read_decoded, read_reference
from tests.web.conftest import Ask

PICTURES = [case for case in CASES if case.example.suffix != ".csv"]
CLIPS = [case for case in CASES if case.example.suffix == ".csv"]
WALK = next(case for case in CLIPS if case.model == "daps-h1-motion")


@pytest.mark.parametrize("case", PICTURES, ids=lambda case: f"{case.model}-{case.example.stem}")
def test_a_picture_has_the_codes_and_pixels_of_the_reference(ask: Ask, case: Case) -> None:
    model = open_model(case.model)
    (pixels,) = load_images(case.example, channels=3)
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    answer = ask(
        """
        const tok = await daps.load(given.folder, { ort });
        const pixels = daps.fitPicture(bytes("rgba"), given.width, given.height, tok.config.input_shape);
        const greedy = await tok.encode(pixels);
        const sampled = await tok.sample(pixels, { seed: given.seed });
        const { values, shape } = await tok.decode(greedy.codes);
        const logProbs = await tok.logProb(pixels, sampled.codes);
        const position = given.position;
        const answer = {
          pixels: [...pixels], greedy: [...greedy.codes], sampled: [...sampled.codes], values: [...values], shape,
          drawn: [...sampled.logProbs], scored: [...logProbs],
          alternatives: await tok.alternatives(pixels, greedy.codes, position, 5),
          own: await tok.probabilities(pixels, greedy.codes, position, [greedy.codes[position]]),
          ownDrawn: greedy.logProbs[position],
        };
        """,
        folder=str(model.path),
        rgba=rgba,
        width=pixels.shape[1],
        height=pixels.shape[0],
        seed=SEED,
        position=model.config.num_tokens * 2 // 3,
    )
    reference = read_reference(case)
    (loaded,) = load_images(case.example, channels=model.config.input_shape[-1])
    fitted = fit_image(loaded, *model.config.input_shape[:2], fit="crop")
    assert answer["pixels"] == fitted.ravel().tolist()
    assert answer["greedy"] == reference["greedy"]
    assert answer["sampled"] == reference["sampled"]
    decoded = read_decoded(case)
    assert answer["shape"] == [1, *decoded.shape]
    assert np.abs(np.array(answer["values"]) - decoded.ravel().astype(int)).max() <= 1
    assert np.allclose(answer["drawn"], answer["scored"], atol=1e-3)
    best = answer["alternatives"][0]
    assert best["code"] == answer["greedy"][model.config.num_tokens * 2 // 3]
    assert best["logProb"] == pytest.approx(answer["ownDrawn"], abs=1e-3) == pytest.approx(answer["own"][0], abs=1e-3)
    assert sum(np.exp(one["logProb"]) for one in answer["alternatives"]) <= 1 + 1e-4
    assert len({one["code"] for one in answer["alternatives"]}) == 5


@pytest.mark.parametrize("case", CLIPS, ids=lambda case: case.model)
def test_a_motion_clip_has_the_features_codes_and_poses_of_the_reference(ask: Ask, case: Case) -> None:
    model = open_model(case.model)
    robot = robot_of(model.config)
    answer = ask(
        """
        const tok = await daps.load(given.folder, { ort });
        const poses = motion.readClip(given.csv, given.robot);
        const frames = motion.features(poses, given.robot, 30);
        const [length, width] = tok.config.input_shape;
        const windows = motion.cutWindows(frames, length);
        const greedy = await tok.encode(windows);
        const sampled = await tok.sample(windows, { seed: given.seed });
        const { values } = await tok.decode(greedy.codes);
        const joined = motion.joinWindows(values, length, width, poses.length);
        const path = motion.toPoses(joined, given.robot, 30, motion.startOf(poses[0]));
        const planted = motion.plantFeet(path, given.robot, 30);
        const bent = motion.followAnchors(planted, motion.anchorsOf(poses, length), length, given.robot, 30);
        const decoded = motion.holdFeet(bent, given.robot, 30);
        const [best] = await tok.alternatives(windows, greedy.codes, 100, 3);
        const answer = {
          features: frames.map((frame) => [...frame]), greedy: [...greedy.codes], sampled: [...sampled.codes], decoded,
          csv: motion.writeClip(poses), best, own: greedy.logProbs[100],
        };
        """,
        folder=str(model.path),
        csv=case.example.read_text(encoding="utf-8"),
        robot=robot_table(robot),
        seed=SEED,
    )
    clip = Clip.load(case.example, robot=robot)
    assert np.abs(np.array(answer["features"]) - compute_features(clip.qpos, fps=30.0, robot=robot)).max() < 1e-5
    reference = read_reference(case)
    assert answer["greedy"] == np.ravel(reference["greedy"]).tolist()
    assert answer["sampled"] == np.ravel(reference["sampled"]).tolist()
    assert np.abs(np.array(answer["decoded"]) - read_decoded(case)).max() < 1e-4
    written = np.loadtxt(answer["csv"].splitlines(), delimiter=",")
    assert np.abs(written - clip.qpos).max() <= 5.1e-7
    assert answer["best"]["code"] == answer["greedy"][100]
    assert answer["best"]["logProb"] == pytest.approx(answer["own"], abs=1e-3)


def test_another_robot_has_the_features_that_it_has_in_python(ask: Ask) -> None:
    poses = standing(G1) + np.random.default_rng(0).normal(0, 0.1, (5, G1.pose_size))
    poses[:, 3:7] /= np.linalg.norm(poses[:, 3:7], axis=1, keepdims=True)
    answer = ask(
        "const answer = motion.features(given.poses, given.robot, 30).map((frame) => [...frame]);",
        poses=poses.tolist(),
        robot=robot_table(G1),
    )
    assert np.abs(np.array(answer) - compute_features(poses, fps=30.0, robot=G1)).max() < 1e-5


def test_a_generator_that_is_told_more_than_a_label_is_refused(ask: Ask) -> None:
    answer = ask(
        """
        const told = (error) => `${error.name}: ${error.message}`;
        const answer = await daps.loadGenerator(given.folder, { ort }).catch(told);
        """,
        folder=str(open_generator("daps-g1-text").path),
    )
    assert answer.startswith("DapsError: ")
    assert answer.endswith("daps-g1-text: is told a text or a path; daps.js draws of a label alone")


@pytest.mark.parametrize("name", [name for name in built_in_generators() if not open_generator(name).config.conditions])
def test_a_generator_draws_the_codes_that_it_draws_in_python(ask: Ask, name: str) -> None:
    gen = Generator.from_pretrained(name)
    label = gen.labels[-1]
    answer = ask(
        """
        const gen = await daps.loadGenerator(given.folder, { ort });
        const answer = {
          labels: gen.labels,
          one: [...(await gen.sample({ label: given.label, count: 3, seed: 5, guidance: 2, temperature: 0.9 }))],
          any: [...(await gen.sample({ count: 2, seed: 1 }))],
          message: await gen.sample({ label: "unheard of" }).catch((error) => `${error.name}: ${error.message}`),
        };
        """,
        folder=str(built_in_generators()[name]),
        label=label,
    )
    expected = gen.sample(label, num_samples=3, seed=5, guidance=2.0, temperature=0.9)
    assert answer["labels"] == list(gen.labels)
    assert answer["one"] == expected.numpy().ravel().tolist()
    assert answer["any"] == gen.sample(num_samples=2, seed=1).numpy().ravel().tolist()
    assert answer["message"].startswith("DapsError: label unheard of is not known; labels are ")


def test_a_seed_gives_the_numbers_that_it_gives_numpy(ask: Ask) -> None:
    seeds = [0, 1, 12345, 2**32 - 1, 2**32, 2**53 - 1]
    answer = ask("const answer = given.seeds.map((seed) => [...daps.uniforms(seed, 7)]);", seeds=seeds)
    for seed, numbers in zip(seeds, answer, strict=True):
        assert np.array_equal(np.float32(numbers), np.random.default_rng(seed).random(7, dtype=np.float32))


@pytest.mark.parametrize("width, height", [(400, 300), (31, 100), (40, 48), (40, 49), (32, 50), (33, 33), (1, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_fitted_as_in_python(ask: Ask, width: int, height: int, channels: int) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    answer = ask(
        'const answer = [...daps.fitPicture(bytes("rgba"), given.width, given.height, [32, 32, given.channels])];',
        rgba=rgba,
        width=width,
        height=height,
        channels=channels,
    )
    (loaded,) = load_images(Image.fromarray(rgba), channels=channels)
    assert answer == fit_image(loaded, 32, 32, fit="crop").ravel().tolist()


def test_transparent_pixels_are_laid_over_white_as_in_python(ask: Ask) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    answer = ask('const answer = [...daps.fitPicture(bytes("rgba"), 32, 32, [32, 32, 3])];', rgba=rgba)
    (loaded,) = load_images(Image.fromarray(rgba), channels=3)
    assert np.abs(np.array(answer) - loaded.ravel().astype(int)).max() <= 1  # Pillow rounds otherwise


def test_a_daps_file_of_python_is_read_and_written_back_byte_for_byte(ask: Ask) -> None:
    tok = Tokenizer.from_pretrained("daps-mnist")
    codes = tok.encode(EXAMPLES / "digit.png")
    answer = ask(
        """
        const { header, codes } = daps.readDaps(bytes("file"));
        const answer = { header, codes: [...codes], written: [...daps.writeDaps(header, codes)] };
        """,
        file=np.frombuffer(codes.to_bytes(), np.uint8),
    )
    assert answer["codes"] == codes.numpy().ravel().tolist()
    assert answer["header"]["weights_sha256"] == codes.weights_sha256
    assert bytes(answer["written"]) == codes.to_bytes()


def test_a_clip_written_by_javascript_is_read_by_python(ask: Ask) -> None:
    layout = {"frames": 50, "windows": 2, "overlap": 0, "fps": 30, "starts": [[0.5, -1, 0.25]]}
    header = {"model": "m", "weights_sha256": "", "vocab_size": 5, "shape": [1, 2, 3], "layout": layout}
    answer = ask(
        "const answer = [...daps.writeDaps(given.header, [0, 1, 2, 3, 4, 0])];",
        header=header,
    )
    codes = Codes.from_bytes(bytes(answer))
    assert codes.numpy().ravel().tolist() == [0, 1, 2, 3, 4, 0]
    assert codes.layout.starts == ((0.5, -1.0, 0.25),)


def _damaged(data: bytes, count: int) -> list[list[int]]:
    """Files with a few bytes changed, left out, doubled or added, some with a CRC-32 that fits again."""
    chance = random.Random(0)
    found = []
    for _ in range(count):
        broken = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(broken))
            kind = chance.randrange(4)
            if kind == 0:
                broken[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                del broken[at : at + chance.randint(1, 40)]
            elif kind == 2:
                broken[at:at] = broken[at : at + 9]
            else:
                broken += bytes(chance.randrange(256) for _ in range(3))
            broken = broken or bytearray(b"D")
        if chance.random() < 0.6:
            broken[-4:] = zlib.crc32(broken[:-4]).to_bytes(4, "little")
        found.append(list(broken))
    return found


def test_python_and_javascript_refuse_the_same_files_with_one_line(ask: Ask) -> None:
    codes = Codes(np.arange(64).reshape(1, 64) % 5, 5, "daps-mnist", "0" * 64)
    files = _damaged(codes.to_bytes(), 500)
    script = "const answer = given.files.map((file) => messageOf(() => daps.readDaps(Uint8Array.from(file))));"
    answer = ask(script, files=files)
    for file, message in zip(files, answer, strict=True):
        try:
            Codes.from_bytes(bytes(file))
        except ValueError:
            assert message is not None and "\n" not in message and not message.startswith("not typed"), message
        else:
            assert message is None, message


def test_500_broken_links_get_one_line_each(ask: Ask) -> None:
    answer = ask(
        """
        const sha = "ab".repeat(32);
        const model = { name: "daps-mnist", weightsSha256: sha, vocabSize: 256, numTokens: 8, modality: "image" };
        const clip = { ...model, name: "clip", modality: "motion" };
        const codes = [0, 1, 2, 3, 252, 253, 254, 255];
        const link = daps.writeLink({ model: model.name, ...model, codes });
        const back = daps.readLink(link, [model, clip]);
        const clipLink = daps.writeLink({ model: "clip", ...model, codes: [...codes, ...codes], frames: 50 });
        const clipBack = daps.readLink(clipLink, [model, clip]);
        let state = 1;
        const chance = (n) => (state = (state * 48271) % 2147483647) % n;
        const messages = [];
        for (let i = 0; i < 500; i++) {
          const letters = [...(i % 2 ? link : clipLink)];
          for (let k = 0; k <= chance(4); k++) {
            const at = chance(letters.length);
            if (chance(2)) letters[at] = String.fromCharCode(33 + chance(400));
            else letters.splice(at, 1 + chance(20));
          }
          const text = letters.join("");
          const isChanged = text !== link && text !== clipLink;
          messages.push(isChanged ? messageOf(() => daps.readLink(text, [model, clip])) : "unchanged");
        }
        const honest = (what) => { // its check fits, its content does not
          const fake = daps.writeLink({ model: model.name, ...model, codes, ...what });
          messages.push(messageOf(() => daps.readLink(fake, [model, clip])));
        };
        honest({ model: "other" });
        honest({ weightsSha256: "cd".repeat(32) });
        honest({ codes: [1, 2, 3] });
        honest({ frames: 50 });
        honest({ model: "clip" });
        const answer = { back, clipBack, messages, length: link.length };
        """
    )
    assert [*answer["back"]["codes"].values()] == [0, 1, 2, 3, 252, 253, 254, 255]
    assert answer["clipBack"]["frames"] == 50 and len(answer["clipBack"]["codes"]) == 16
    assert len(answer["messages"]) == 505
    for message in answer["messages"]:
        assert message is not None and "\n" not in message and not message.startswith("not typed"), message


@pytest.mark.parametrize(
    "row, said",
    [
        ("0,0", "row 2 has 2 columns"),
        (",".join(["x"] * 26), 'row 2, column 1 (root x): "x" is not a number'),
        (",".join(["0"] * 26), "a length of 0.000"),
        (",".join(["0"] * 6 + ["1"] + ["90"] * 19), "expected an angle in radians"),
        (",".join(["1e9"] * 26), "expected metres"),
    ],
)
def test_a_wrong_clip_is_refused_with_its_row(ask: Ask, row: str, said: str) -> None:
    good = WALK.example.read_text(encoding="utf-8").splitlines()[0]
    message = ask(
        "const answer = messageOf(() => motion.readClip(given.csv, given.robot));",
        csv=f"{good}\n{row}\n{good}\n",
        robot=robot_table(H1),
    )
    assert said in message


@pytest.mark.parametrize(
    "script, said",
    [
        ("await daps.load('nowhere', { ort })", "nowhere/config.json: cannot be read (ENOENT)"),
        ("await tok.encode(new Uint8Array(5))", "daps-mnist takes a Uint8Array of 28 × 28 × 1 values"),
        ("await tok.encode(new Uint8Array(784), { temperature: -1 })", "temperature must be a number from 0"),
        ("await tok.sample(new Uint8Array(784), { seed: 0.5 })", "seed must be an integer from 0"),
        ("await tok.decode([1, 2, 3])", "3 codes are not grids of 1 × 8"),
        ("await tok.decode([256, 0, 0, 0, 0, 0, 0, 0])", "code 256 at position 0; codes of daps-mnist are 0 to 255"),
        ("await tok.logProb(new Uint8Array(784), new Int32Array(3))", "3 codes"),
        ("daps.fitPicture(new Uint8Array(3), 1, 1, [8, 8, 3])", "3 values are not 1 × 1 pixels"),
        ("await damaged.decode([0, 0, 0, 0, 0, 0, 0, 0])", "is damaged: its sha256"),
    ],
)
def test_bad_input_gets_one_clear_line(ask: Ask, script: str, said: str) -> None:
    answer = ask(
        f"""
        const tok = await daps.load(given.folder, {{ ort }});
        const damaged = await daps.load(given.folder, {{
          ort,
          read: async (name) => (name === "config.json" ? bytes(`${{given.folder}}/${{name}}`) : new Uint8Array(9)),
        }});
        let answer = null;
        try {{
          {script};
        }} catch (error) {{
          answer = `${{error.name}}: ${{error.message}}`;
        }}
        """,
        folder=str(open_model("daps-mnist").path),
    )
    assert answer.startswith("DapsError: ") and said in answer and "\n" not in answer
