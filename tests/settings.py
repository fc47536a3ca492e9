"""The four settings of the paper (REFERENCE: "Settings of the four tokenizers") and tiny ones, to build tests on."""

from dataclasses import replace

from daps_tokenizer.config import (
    GenerativeConfig,
    LikelihoodConfig,
    MotionConfig,
    NormalisationConfig,
    RecognitionConfig,
    TokenizerConfig,
    TransformConfig,
)
from daps_tokenizer.motion.features import FPS, feature_table
from daps_tokenizer.motion.robots import H1

MNIST = TokenizerConfig(
    name="mnist",
    modality="image",
    input_shape=(28, 28, 1),
    num_tokens=8,
    vocab_size=256,
    recognition=RecognitionConfig(patch_size=(14, 8), hidden_size=64, num_layers=1),
    generative=GenerativeConfig("mlp", embedding_size=64, hidden_size=64),
    likelihood=LikelihoodConfig("bernoulli"),
    normalisation=NormalisationConfig((0.0,), (1.0,)),
)
CIFAR10 = TokenizerConfig(
    name="cifar10",
    modality="image",
    input_shape=(32, 32, 3),
    num_tokens=64,
    vocab_size=512,
    recognition=RecognitionConfig(patch_size=(4, 4)),
    generative=GenerativeConfig("resnet"),
    likelihood=LikelihoodConfig("gaussian", min_variance=1e-4, max_variance=10.0),
    normalisation=NormalisationConfig((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
)
IMAGENET256 = TokenizerConfig(
    name="imagenet256",
    modality="image",
    input_shape=(256, 256, 3),
    num_tokens=1024,
    vocab_size=1024,
    recognition=RecognitionConfig(patch_size=(8, 8)),
    generative=GenerativeConfig("resnet"),
    likelihood=LikelihoodConfig("gaussian"),
    normalisation=NormalisationConfig((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
)
LAFAN = TokenizerConfig(
    name="lafan",
    modality="motion",
    input_shape=(32, 127),
    num_tokens=64,
    vocab_size=1024,
    recognition=RecognitionConfig(),
    generative=GenerativeConfig("transformer", hidden_size=128),
    likelihood=LikelihoodConfig("gaussian_constant"),
    normalisation=NormalisationConfig((0.0,) * 127, (1.0,) * 127),
)

# Small enough to train in a test: the same networks with other sizes.
_TINY_RECOGNITION = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "mlp_ratio": 2}
TINY_MLP = replace(
    MNIST,
    name="tiny-mlp",
    vocab_size=16,
    recognition=RecognitionConfig(patch_size=(14, 8), **_TINY_RECOGNITION),
    generative=GenerativeConfig("mlp", embedding_size=16, hidden_size=8),
)
TINY_GRID = replace(
    CIFAR10,
    name="tiny-grid",
    input_shape=(16, 16, 3),
    num_tokens=16,
    vocab_size=16,
    recognition=RecognitionConfig(patch_size=(4, 4), **_TINY_RECOGNITION),
    generative=GenerativeConfig("resnet", embedding_size=16, hidden_size=8, num_layers=1),
)
TINY_WINDOWS = replace(
    TINY_GRID,
    name="tiny-windows",
    recognition=RecognitionConfig(patch_size=(4, 4), window=(2, 2), **_TINY_RECOGNITION),
)
TINY_SURROUNDINGS = replace(
    TINY_WINDOWS,
    name="tiny-surroundings",
    recognition=RecognitionConfig(patch_size=(4, 4), window=(2, 2), surroundings=4, **_TINY_RECOGNITION),
)
TINY_MOTION = replace(
    LAFAN,
    name="tiny-motion",
    input_shape=(4, 5),
    num_tokens=8,
    vocab_size=16,
    recognition=RecognitionConfig(**_TINY_RECOGNITION),
    generative=GenerativeConfig("transformer", embedding_size=16, hidden_size=16, num_layers=1, num_heads=2),
    normalisation=NormalisationConfig((0.5,) * 5, (2.0,) * 5),
)

# The real features and lengths of a clip, so that a Tokenizer takes clips, and networks as small as above.
SMALL_MOTION = replace(
    LAFAN,
    name="small-motion",
    vocab_size=64,
    recognition=RecognitionConfig(**_TINY_RECOGNITION),
    generative=GenerativeConfig("transformer", embedding_size=16, hidden_size=16, num_layers=1, num_heads=2),
    normalisation=NormalisationConfig((1.0,) + (0.0,) * 126, (0.1,) * 127),
    motion=MotionConfig(FPS, H1.joint_names, feature_table(H1).names),
)
TINY_SPECTRAL = replace(
    TINY_MOTION,
    name="tiny-spectral",
    generative=GenerativeConfig("spectral", embedding_size=16, hidden_size=8, num_layers=1),
    transform=TransformConfig(frequencies=4, components=4, size=16),
)


def of_kind(config: TokenizerConfig, kind: str) -> TokenizerConfig:
    """The same tokenizer with another recognition model; where it has levels, 4 × 4 of them for the tiny ones."""
    levels = (4, config.vocab_size // 4) if kind == "levels" else ()
    return replace(config, recognition=replace(config.recognition, kind=kind, levels=levels))
