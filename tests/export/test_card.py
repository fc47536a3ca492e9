"""A model card says what config.json says, and nothing that was not measured."""

import dataclasses

from export.card import collection_card, model_card
from tests.settings import CIFAR10, MNIST, TINY_SPECTRAL

STAGE = {
    "experiment": {"method": "vqvae", "batch_size": 64, "dataset": "cifar10", "model": {"input_shape": [32, 32, 3]}},
    "validation": {"sampled_log_p": 560.04, "greedy_log_p": 598.31},
    "steps": 12000,
    "seconds": 3600.0,
    "versions": {"torch": "2.13.0", "device": "CPU, 1 threads"},
}
EVALUATION = {
    "sampled_log_p": 571.234,
    "sampled_psnr": 24.1,
    "sampled_l2": 14.0,
    "greedy_log_p": 600.5,
    "greedy_psnr": 24.3,
    "greedy_l2": 13.5,
    "entropy": 30.0,
    "codes_used": 512.0,
    "code_perplexity": 450.0,
    "items": 10000.0,
    "dataset": "cifar10, test set",
    "seed": 0,
    "date": "2026-11-21",
}
TRAINED = dataclasses.replace(CIFAR10, training=STAGE | {"stages_before": [STAGE], "evaluation": EVALUATION})


def test_a_trained_model_shows_its_measured_quality_and_every_stage() -> None:
    card = model_card(TRAINED)
    assert card.startswith("---\nlibrary_name: daps-tokenizer\n")
    assert "| sampled | 571.23 | 24.10 | 14.000 |" in card and "10000 images, seed 0, 2026-11-21" in card
    assert card.count("| vqvae | 12000 | 64 | 60 | CPU, 1 threads, torch 2.13.0 | 32×32×3 | 560.0, 598.3 nats |") == 2


def test_a_stage_that_was_stopped_says_after_which_step_it_was_measured() -> None:
    stopped = dataclasses.replace(CIFAR10, training=STAGE | {"validation_step": 11000, "stages_before": []})
    assert "| 560.0, 598.3 nats after step 11000 |" in model_card(stopped)
    ended = dataclasses.replace(CIFAR10, training=STAGE | {"validation_step": 12000, "stages_before": []})
    assert "| 560.0, 598.3 nats |" in model_card(ended)


def test_a_measured_model_says_on_which_machine() -> None:
    evaluation = EVALUATION | {"machine": {"processor": "AMD EPYC", "torch": "2.13.0"}}
    card = model_card(dataclasses.replace(CIFAR10, training=STAGE | {"evaluation": evaluation}))
    assert "by `python -m train evaluate` on AMD EPYC, torch 2.13.0. log p" in card


def test_what_was_not_measured_is_said_to_be_so() -> None:
    card = model_card(MNIST)
    assert "Not measured." in card and "never trained" in card


def test_a_model_of_ones_own_has_its_own_name_and_neither_licence_nor_limits_of_another() -> None:
    experiment = STAGE["experiment"] | {"dataset": "photos", "data": {"kind": "folder", "train": ["birds"]}}  # type: ignore[operator]
    record = STAGE | {"experiment": experiment, "stages_before": [], "train_items": 1234}
    card = model_card(dataclasses.replace(CIFAR10, name="birds-64", training=record))
    assert 'from_pretrained("./birds-64")' in card and "model_name: birds-64" in card
    assert "license" not in card and "datasets:" not in card and "1.28 KB" not in card
    assert "It was trained on 1,234 items. Nobody has described yet what it is for" in card


def test_a_built_in_model_has_its_licence_and_its_limits() -> None:
    card = model_card(dataclasses.replace(TRAINED, name="daps-cifar10"))
    assert "license: apache-2.0" in card and "datasets: [cifar10]" in card
    assert 'from_pretrained("daps-cifar10")' in card and "It sees 32×32 pixels" in card


def test_data_of_the_hub_is_named_in_the_front_matter() -> None:
    experiment = {"data": {"kind": "huggingface", "train": ["someone/birds:train"]}}
    record = STAGE | {"experiment": STAGE["experiment"] | experiment}  # type: ignore[operator]
    assert "datasets: [someone/birds]" in model_card(dataclasses.replace(CIFAR10, training=record))


def test_a_quantiser_has_one_kind_of_codes_and_no_entropy() -> None:
    evaluation = {key: value for key, value in EVALUATION.items() if "sampled" not in key and key != "entropy"}
    card = model_card(dataclasses.replace(CIFAR10, training=STAGE | {"evaluation": evaluation}))
    assert "| greedy | 600.50 |" in card and "| sampled |" not in card and "Entropy" not in card
    assert "512 codes in use, perplexity 450." in card


def test_the_collection_has_a_section_for_each_model() -> None:
    card = collection_card([MNIST, TRAINED])
    assert "## mnist" in card and "## cifar10" in card and card.count("library_name") == 1


def test_a_motion_model_has_no_psnr_and_is_shown_on_clips() -> None:
    evaluation = {name: value for name, value in EVALUATION.items() if not name.endswith("psnr")}
    stage = STAGE | {"experiment": STAGE["experiment"] | {"dataset": "motion", "model": {"input_shape": [4, 5]}}}  # type: ignore[operator]
    card = model_card(
        dataclasses.replace(TINY_SPECTRAL, name="daps-h1-motion", training=stage | {"evaluation": evaluation})
    )
    assert "| codes | log p(x\\|z), nats | L2 |\n|---|---|---|\n| sampled | 571.23 | 14.000 |" in card
    assert 'tok.encode("walk.csv")  # 8 integers below 16 for each window of 4 frames' in card
    assert "10000 windows" in card and "begins as a transform codec" in card and "without the anchors" in card


def test_the_card_says_which_stages_were_watched_on_test_items_and_which_on_validation_items() -> None:
    assert "is of test items, at its size" in model_card(TRAINED)
    held_out = STAGE | {"experiment": STAGE["experiment"] | {"validation_items": 200}}  # type: ignore[operator]
    card = model_card(dataclasses.replace(CIFAR10, training=held_out | {"stages_before": [STAGE, STAGE]}))
    assert "test items in stages 1, 2 and of validation items in stage 3" in card
