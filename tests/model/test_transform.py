"""The transform of motion clips, its code books, and the models made of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from daps_tokenizer.backends.torch import _use_dtype
from daps_tokenizer.config import GenerativeConfig, TokenizerConfig, TransformConfig
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.generative import SpectralGenerator
from daps_tokenizer.model.sampling import sample_codes
from daps_tokenizer.model.transform import CodeBooks, Transform, cosine_table
from tests.settings import MNIST, TINY_MOTION, TINY_SPECTRAL, of_kind


def tiny_model(seed: int = 0) -> Autoencoder:
    """Random weights, of the code books as well."""
    torch.manual_seed(seed)
    model = Autoencoder(TINY_SPECTRAL).eval().requires_grad_(False)
    torch.nn.init.normal_(books_of(model).table)
    return model


def books_of(model: Autoencoder) -> CodeBooks:
    books = model.autoregressive.code_books
    assert books is not None
    return books


def clips(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 4, 5, generator=torch.Generator().manual_seed(1))


def test_cosines_are_orthonormal_and_begin_with_the_mean() -> None:
    table = cosine_table(8, 5)
    torch.testing.assert_close(table @ table.T, torch.eye(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(table[0], torch.full((8,), 8**-0.5))


def test_a_complete_transform_is_inverted_exactly() -> None:
    transform = Transform(TransformConfig(frequencies=4, components=5, size=20), (4, 5))
    x = clips()
    torch.testing.assert_close(transform.synthesise(transform.analyse(x)), x, atol=1e-5, rtol=0)


def test_an_incomplete_one_leaves_out_what_is_orthogonal_to_it() -> None:
    transform = Transform(TransformConfig(frequencies=2, components=3, size=5), (4, 5))
    x = clips()
    coefficients = transform.analyse(x)
    kept = transform.synthesise(coefficients)
    torch.testing.assert_close(transform.analyse(kept), coefficients, atol=1e-5, rtol=0)
    squares = kept.square().sum() + (x - kept).square().sum()
    torch.testing.assert_close(squares, x.square().sum(), atol=1e-4, rtol=0)


def test_scores_rank_codes_by_distance_in_their_own_columns() -> None:
    model = tiny_model()
    books = books_of(model)
    books.log_sharpness.fill_(0.5)
    x = clips()
    scores = books(x)
    coefficients = books.transform.analyse(x)
    for code in range(8):
        own = slice(2 * code, 2 * code + 2)
        distances = torch.cdist(coefficients[:, own], books.table[:, own]).square()
        difference = scores[:, code] + np.exp(0.5) * distances
        torch.testing.assert_close(difference, difference[:, :1].expand_as(difference), atol=1e-4, rtol=0)


def test_a_head_of_zeros_leaves_the_choice_to_the_code_books() -> None:
    model = tiny_model()
    for parameter in model.autoregressive.head.parameters():
        parameter.zero_()
    recognition, x = model.autoregressive, clips()
    greedy = sample_codes(recognition, recognition.context(x), torch.zeros(3, 8), 0.0)
    assert torch.equal(greedy.codes, books_of(model)(x).argmax(-1))
    torch.testing.assert_close(greedy.log_probs.exp().sum(1) > 0, torch.ones(3, dtype=torch.bool))


def test_drawing_and_scoring_agree_on_log_q() -> None:
    model = tiny_model()
    recognition = model.autoregressive
    context = recognition.context(clips())
    drawn = sample_codes(recognition, context, torch.rand(6, 8, generator=torch.Generator().manual_seed(2)))
    torch.testing.assert_close(recognition.log_prob(context, drawn.codes), drawn.log_probs, atol=1e-4, rtol=0)


def test_each_code_reads_its_own_columns() -> None:
    model = tiny_model()
    generative = model.generative
    assert isinstance(generative, SpectralGenerator)
    codes = torch.arange(8)[None]
    table = generative.embedding.weight
    coefficients = torch.cat([table[code, 2 * code : 2 * code + 2] for code in range(8)])[None]
    torch.testing.assert_close(generative(codes), generative.decode_coefficients(coefficients))


def test_without_a_correction_decoding_is_the_transform_back() -> None:
    model = tiny_model()
    generative = model.generative
    assert isinstance(generative, SpectralGenerator)
    for parameter in generative.correction.parameters():
        parameter.zero_()
    coefficients = torch.randn(2, 16)
    torch.testing.assert_close(
        generative.decode_coefficients(coefficients), generative.transform.synthesise(coefficients)
    )


def changed(**changes: object) -> TokenizerConfig:
    return replace(TINY_SPECTRAL, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: changed(transform=None), "generative.kind spectral and a transform go together"),
        (lambda: replace(TINY_MOTION, transform=TINY_SPECTRAL.transform), "spectral and a transform go together"),
        (lambda: TransformConfig(2, 2, 5), r"transform\.size 5 is more than the 4 numbers it is made of"),
        (lambda: TransformConfig(0, 2, 1), r"transform\.frequencies must be a positive integer, not 0"),
        (lambda: changed(transform=TransformConfig(4, 4, 12)), r"transform\.size 12 is not a multiple of 8 tokens"),
        (lambda: changed(transform=TransformConfig(5, 4, 16)), "keeps 5 frequencies and 4 components of"),
        (lambda: of_kind(TINY_SPECTRAL, "independent"), "a transform needs recognition.kind autoregressive"),
        (
            lambda: changed(generative=GenerativeConfig("spectral", embedding_size=8)),
            r"embedding_size must be the transform\.size 16",
        ),
        (
            lambda: replace(
                MNIST,
                generative=GenerativeConfig("spectral", embedding_size=8),
                transform=TransformConfig(3, 4, 8),
            ),
            r"config\.transform is for motion models, not for modality image",
        ),
    ],
)
def test_transforms_that_no_model_could_have_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_config_with_a_transform_is_read_back() -> None:
    assert TokenizerConfig.from_json(TINY_SPECTRAL.to_json()) == TINY_SPECTRAL


def test_code_books_stay_in_float32_where_the_networks_do_not() -> None:
    model, reduced = tiny_model(), tiny_model()
    _use_dtype(reduced, torch.bfloat16)
    x = clips()
    assert torch.equal(books_of(reduced)(x.bfloat16().float()), books_of(model)(x.bfloat16().float()))
    context = reduced.autoregressive.context(x.bfloat16())
    assert context[-1].keys.dtype == torch.float32
