"""Frozen codes as features: what a simple classifier makes of them, from how many labels.

Probes are scikit-learn's: logistic regression (L-BFGS, C = 1) and an MLP with one hidden layer of 128 (Adam).
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import BackendError, ModelFileError
from daps_tokenizer.files import sha256_of
from daps_tokenizer.hub import built_in_models, open_model
from daps_tokenizer.install import install_command
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights
from train.code_search import CodeSearch
from train.items import Items
from train.methods.base import TrainedModel

Features = Literal["one-hot", "embedded"]
Probe = Literal["linear", "mlp"]
FEATURES: tuple[Features, ...] = get_args(Features)
PROBES: tuple[Probe, ...] = get_args(Probe)

_BATCH = 500
_HIDDEN = 128
_ITERATIONS = 100  # of L-BFGS
_MLP_UPDATES, _MLP_BATCH = 2000, 200
_MOST_EMBEDDED = 2048  # dimensions; grids that have more are averaged over squares of codes


def load_autoencoder(model: str) -> Autoencoder:
    """A built-in model, a model folder, or a checkpoint of ``python -m train``.

    Raises:
        ModelNotFoundError, ModelFileError, ConfigError: there is none, or a damaged one.
    """
    folder = _model_folder(model)
    autoencoder = Autoencoder(TokenizerConfig.from_file(folder / "config.json"))
    load_weights(autoencoder, folder / "model.safetensors")
    return autoencoder.eval()


def weights_sha256(model: str) -> str:
    """Of the weights that :func:`load_autoencoder` reads of this model.

    Raises:
        ModelNotFoundError, ModelFileError: there are none.
    """
    path = _model_folder(model) / "model.safetensors"
    try:
        return sha256_of(path)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); expected a model's weights") from None


def _model_folder(model: str) -> Path:
    folder = open_model(model).path if model in built_in_models() else Path(model)
    return folder if (folder / "config.json").is_file() else open_model(model).path


@torch.inference_mode()
def codes_of(
    autoencoder: Autoencoder, items: Items, *, limit: int | None = None, search: CodeSearch | None = None
) -> np.ndarray:
    """Codes of items (uint8 images or float32 features), (n, N) int64: greedy ones, or what a search makes of them."""
    encoder, config = TrainedModel(autoencoder), autoencoder.config
    parts = []
    count = len(items) if limit is None else min(limit, len(items))
    for start in range(0, count, _BATCH):
        inputs = items.read(np.arange(start, min(start + _BATCH, count)), seed=(0,))
        x = autoencoder.standardise(torch.from_numpy(inputs))
        uniform = torch.zeros(len(x), config.num_tokens)
        codes = encoder.encode(x, uniform, 0.0).codes
        if search is not None:
            logits = autoencoder.recognition.logits(autoencoder.recognition.context(x), codes)
            codes = search.run(autoencoder, x, codes, logits, torch.Generator().manual_seed(0)).codes
        parts.append(codes.numpy())
    return np.concatenate(parts)


def one_hot(codes: np.ndarray, vocab_size: int) -> Any:
    """Codes (n, N) as a sparse matrix (n, N·V) float32 with a one for each code."""
    from scipy.sparse import csr_matrix

    count, length = codes.shape
    columns = codes + np.arange(length) * vocab_size
    rows = np.arange(0, count * length + 1, length)
    return csr_matrix((np.ones(count * length, np.float32), columns.ravel(), rows), shape=(count, length * vocab_size))


def embedded(codes: np.ndarray, autoencoder: Autoencoder) -> np.ndarray:
    """Codes (n, N) as the generative model sees them: the vectors of its table side by side, (n, N·H) float32.

    Where that is over 2,048 dimensions and the codes lie on a grid, vectors are averaged over squares of 2 × 2, or
    4 × 4 and so on.
    """
    table = autoencoder.generative.embedding.weight.detach().numpy()
    vectors = table[codes]
    grid = autoencoder.config.token_grid
    while grid is not None and vectors[0].size > _MOST_EMBEDDED and grid[0] % 2 == 0:
        rows, columns = grid[0] // 2, grid[1] // 2
        squares = vectors.reshape(len(codes), rows, 2, columns, 2, -1)
        vectors, grid = squares.mean(axis=(2, 4)).reshape(len(codes), rows * columns, -1), (rows, columns)
    return vectors.reshape(len(codes), -1)


def choose_labelled(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of ``count`` items, as many of each class as can be, drawn at random; all items if there are no more."""
    if count >= len(labels):
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    rank = np.empty(len(labels), np.int64)  # the how-manieth of its class an item is in that order
    for name in np.unique(labels):
        mine = order[labels[order] == name]
        rank[mine] = np.arange(len(mine))
    return order[np.argsort(rank[order], kind="stable")][:count]


def probe_accuracy(
    probe: Probe, train: Any, train_labels: np.ndarray, test: Any, test_labels: np.ndarray, *, seed: int
) -> float:
    """Share of test items whose class the probe names, after learning from all of ``train``.

    Args:
        train, test: matrices (items, dimensions), dense or sparse; dense ones are standardised by ``train``.
        seed: of the MLP.

    Raises:
        BackendError: scikit-learn is not installed.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.neural_network import MLPClassifier
    except ImportError:
        raise BackendError(
            f"probes need scikit-learn, which is not installed; install it with {install_command('probe')}"
        ) from None
    if isinstance(train, np.ndarray):
        mean, std = train.mean(0), train.std(0) + 1e-3
        train, test = (train - mean) / std, (test - mean) / std
    updates_an_epoch = math.ceil(len(train_labels) / _MLP_BATCH)
    classifiers = {
        "linear": LogisticRegression(max_iter=_ITERATIONS),
        "mlp": MLPClassifier(
            (_HIDDEN,),
            batch_size=min(_MLP_BATCH, len(train_labels)),
            max_iter=min(200, math.ceil(_MLP_UPDATES / updates_an_epoch)),
            random_state=seed,
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is part of the protocol
        fitted = classifiers[probe].fit(train, train_labels)
    return float((fitted.predict(test) == test_labels).mean())
