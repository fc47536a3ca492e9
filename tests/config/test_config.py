"""config.json: what it says is what the model is, and what it cannot say is refused by name."""

import dataclasses
import json

import pytest

from daps_tokenizer.config import FORMAT_VERSION, MotionConfig, TokenizerConfig
from daps_tokenizer.errors import ConfigError
from tests.settings import CIFAR10, IMAGENET256, LAFAN, MNIST, TINY_SPECTRAL


@pytest.mark.parametrize("config", [MNIST, CIFAR10, IMAGENET256, LAFAN], ids=lambda config: config.name)
def test_what_is_written_is_read_back(config: TokenizerConfig) -> None:
    assert TokenizerConfig.from_json(config.to_json()) == config


def test_bits_and_grid_follow_from_the_sizes() -> None:
    assert [c.bits_per_item for c in (MNIST, CIFAR10, IMAGENET256, LAFAN)] == [64, 576, 10240, 640]
    assert [c.token_grid for c in (MNIST, CIFAR10, IMAGENET256, LAFAN)] == [None, (8, 8), (32, 32), None]


def changed(**entries: object) -> str:
    content = json.loads(CIFAR10.to_json())
    for path, value in entries.items():
        *parents, name = path.split("__")
        target = content
        for parent in parents:
            target = target[parent]
        target[name] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json: not valid JSON"),
        ("[" * 5000 + "]" * 5000, "config.json: not valid JSON .*recursion"),
        ('{"num_tokens": ' + "1" * 5000 + "}", "config.json: not valid JSON .*5000 digits"),
        ("[]", "expected a mapping of settings, found list"),
        (changed(colour="red"), "unknown key 'colour'; known keys are files, format_version"),
        (changed(recognition__heads=4), "config.json: recognition: unknown key 'heads'"),
        (changed(format_version=99), f"format_version 99 is not known; .* reads {FORMAT_VERSION}"),
        (changed(format_version=99, colour="red"), "format_version 99 is not known"),
        (changed(num_tokens="64"), "num_tokens: expected int, found '64'"),
        (changed(num_tokens=True), "num_tokens: expected int, found True"),
        (changed(num_tokens=0), "num_tokens must be a positive integer, not 0"),
        (changed(vocab_size=1), "vocab_size must be between 2 and 65536, not 1"),
        (changed(modality="sound"), "modality must be one of image, motion, not 'sound'"),
        (changed(input_shape=[32, 32]), r"input_shape for modality image has 3 sizes, not \[32, 32\]"),
        (changed(input_shape=[32, 32, 4]), "normalisation has 3 values for 4 channels"),
        (changed(input_shape=[48, 48, 3], recognition__patch_size=[6, 6]), "resnet doubles a 8×8 grid until it is"),
        (changed(recognition__patch_size=[2, 8]), "into 16×4 patches, and resnet has a grid of 8×8 codes"),
        (changed(recognition__patch_size=[8, 8]), "cuts the image into 16 patches for 64 tokens"),
        (changed(recognition__window=[3, 8]), r"recognition.window must be 2 sizes that divide .*, not \[3, 8\]"),
        (changed(recognition__window=[8]), r"recognition.window must be 2 sizes"),
        (
            changed(recognition__surroundings=6),
            r"surroundings is 0, or a multiple of 4 .*, not 6 around",
        ),
        (changed(recognition__surroundings=-4), r"surroundings is 0, or a multiple of 4"),
        (
            changed(recognition__surroundings=36),
            r"surroundings 36 needs an image .* at least 36, not \[32, 32\]",
        ),
        (changed(recognition__num_heads=3), "hidden_size 128 is not a multiple of num_heads 3"),
        (changed(generative__kind="unet"), "generative.kind must be one of mlp, resnet, transformer, spectral, not"),
        (changed(generative__kind="transformer"), "generative.kind transformer is for motion"),
        (changed(likelihood__min_variance=2.0, likelihood__max_variance=1.0), "0 < min_variance < max_variance"),
        (changed(normalisation__std=[1.0, 1.0, 0.0]), "positive, finite standard deviations"),
        (changed(normalisation__mean=[0.0, 0.0]), "2 means and 3 standard deviations"),
    ],
)
def test_what_no_model_could_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        TokenizerConfig.from_json(text)
    assert "\n" not in str(caught.value)


MOTION = MotionConfig(fps=30.0, joint_names=("left_knee",), feature_names=tuple(f"feature_{i}" for i in range(127)))


def test_a_motion_model_says_what_its_features_are() -> None:
    config = dataclasses.replace(LAFAN, motion=MOTION)
    assert TokenizerConfig.from_json(config.to_json()) == config
    assert TokenizerConfig.from_json(CIFAR10.to_json()).motion is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": 0.0}, "motion.fps must be a positive number, not 0.0"),
        ({"joint_names": ()}, "motion.joint_names is empty"),
        ({"joint_names": ("knee", "knee")}, "motion.joint_names has a name twice"),
        ({"feature_names": ("height",)}, "motion has 1 feature_names for 127 features"),
    ],
)
def test_motion_that_fits_no_model_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(LAFAN, motion=dataclasses.replace(MOTION, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("frames", "num_tokens"), [(8, 4), (6, 8)])
def test_frames_share_the_codes_equally(frames: int, num_tokens: int) -> None:
    with pytest.raises(ConfigError, match=f"must be a multiple of its {frames} frames, .*, not {num_tokens}$"):
        dataclasses.replace(TINY_SPECTRAL, input_shape=(frames, 5), num_tokens=num_tokens)


def test_a_residual_network_is_for_images() -> None:
    with pytest.raises(ConfigError, match=r"generative\.kind resnet is for images, not for modality motion"):
        dataclasses.replace(LAFAN, generative=CIFAR10.generative)


def test_an_image_model_has_no_motion() -> None:
    with pytest.raises(ConfigError, match=r"config\.motion is for motion models, not for modality image"):
        dataclasses.replace(CIFAR10, motion=MOTION)


def test_a_missing_key_is_named() -> None:
    content = json.loads(CIFAR10.to_json())
    del content["vocab_size"]
    with pytest.raises(ConfigError, match="key 'vocab_size' is missing"):
        TokenizerConfig.from_json(json.dumps(content))


def test_a_config_cannot_be_changed_after_it_was_checked() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CIFAR10.num_tokens = 3  # type: ignore[misc]
