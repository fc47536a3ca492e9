"""The model card: README.md of a model folder, written from its config so that no number in it is typed by hand."""

from __future__ import annotations

from typing import Any

from daps_tokenizer.config import TokenizerConfig
from export.paper import dataset_of, nats_less_in_the_papers_units

_USAGE = """```python
from daps_tokenizer import Tokenizer

tok = Tokenizer.from_pretrained("{name}")
codes = tok.encode("image.png")  # {tokens} integers below {vocab}
image = tok.decode(codes)  # (1, {shape})
```"""

_PAPER = "(Drolet et al., ICLR 2026, arXiv 2509.24716)"
_KINDS = {
    "autoregressive": f", with exact log-probabilities, and back. Autoregressive recognition model of DAPS {_PAPER}",
    "independent": f", with exact log-probabilities, and back. Factorised recognition model, one pass {_PAPER}",
    "nearest": " and back. Vector quantiser (VQ-VAE), one pass, without probabilities",
    "levels": " and back. Finite scalar quantiser (FSQ), one pass, without probabilities",
}
_CODEC = " It begins as a transform codec, whose code books add to its logits."
_TRAINED_CODEC = (
    " A nonlinear transform codec, trained end to end as a VQ-VAE is, alone decides its codes: the autoregressive "
    "network itself was not trained, neither by DAPS nor otherwise."
)

_MOTION_USAGE = """```python
from daps_tokenizer import Tokenizer

tok = Tokenizer.from_pretrained("{name}")
codes = tok.encode("walk.csv")  # {tokens} integers below {vocab} for each window of {frames} frames
clip = tok.decode(codes)[0]  # root position, quaternion and joint angles again
```"""

# Of the built-in models alone: whoever trains another knows what it cannot do.
_LIMITS = {
    "daps-h1-motion": (
        "It knows the motions of LAFAN1 (CC BY-NC-ND 4.0, research use) on a Unitree H1 at 30 frames per second: "
        "dancing, fighting, running, walking, falling. 640 bits for a second of motion keep what the body does, not "
        "fine detail. Codes without the anchors of a clip's layout, as a generator's are, drift: their path is the "
        "root's velocity, added up. The 127 features are a composition of ours; the paper's were never published, so "
        "its numbers are not of the same features."
    ),
    "daps-g1-motion": (
        "It knows the motions of LAFAN1 (CC BY-NC-ND 4.0, research use) on a Unitree G1 with 29 joints at 30 frames "
        "per second: dancing, fighting, running, walking, falling. 640 bits for a second of motion keep what the body "
        "does, not fine detail. log p and L2 are in units of its own 85 features, of which joint angles, feet and the "
        "root's path count more (`train/configs/models/motion_g1.yaml`); they cannot be compared with daps-h1-motion's."
    ),
    "daps-mnist": (
        "It knows handwritten digits in black and white, and nothing else: other pictures come back as digits."
    ),
    "daps-photo-256": (
        "1.28 KB cannot hold a photograph: fine texture, text and small faces do not survive, and colours of small "
        "things drift. It was trained on 8,000 photographs (imagenette, imagewoof, Caltech-101, cats and dogs), and is "
        "tested on 1,000 others, one of each ImageNet class."
    ),
    "daps-cifar10": (
        'It sees 32×32 pixels. A larger photograph is either shrunk to that (`fit="crop"`) or cut into tiles of it '
        '(`fit="tile"`). Fine texture, text and faces do not survive. The learning rate and KL target of stage 4 were '
        "chosen on the first 1,000 test images."
    ),
}


def model_card(config: TokenizerConfig) -> str:
    """The text of one model's card, with the Hub's front matter.

    A model of one's own has no licence and no limits in it until somebody writes them.
    """
    built_in = config.name in _LIMITS
    front = _front_matter(config.name, [config], license_name="apache-2.0" if built_in else None)
    return "\n\n".join([front, *_sections(config, heading="#")]) + "\n"


def collection_card(configs: list[TokenizerConfig]) -> str:
    """One card for several models: the repository's MODEL_CARD.md."""
    front = _front_matter("daps-tokenizer", configs, license_name="apache-2.0")
    intro = (
        "# The built-in models\n\nWritten by `python -m export cards` from each model's `config.json`, which has "
        "the settings of every training stage. Each model's folder under `daps_tokenizer/pretrained/` has its own part."
    )
    models = ["\n\n".join(_sections(config, heading="##")) for config in configs]
    return "\n\n".join([front, intro, *models]) + "\n"


def _sections(config: TokenizerConfig, *, heading: str) -> list[str]:
    shape = ", ".join(map(str, config.input_shape))
    template = _USAGE if config.modality == "image" else _MOTION_USAGE
    usage = template.format(
        name=config.name if config.name in _LIMITS else f"./{config.name}",
        tokens=config.num_tokens,
        vocab=config.vocab_size,
        shape=shape,
        frames=config.input_shape[0],
    )
    inputs = "images" if config.modality == "image" else "motion clips"
    return [
        f"{heading} {config.name}",
        f"A discrete tokenizer: {inputs} of shape ({shape}) to {config.num_tokens} codes out of {config.vocab_size} "
        f"({config.bits_per_item:g} bits){_KINDS[config.recognition.kind]}. It runs with ONNX Runtime."
        f"{_codec(config) if config.transform else ''}",
        usage,
        f"{heading}# Quality",
        _quality(config),
        f"{heading}# Training",
        _training(config.training),
        f"{heading}# Limits",
        _LIMITS.get(config.name) or _limits(config.training),
    ]


def _codec(config: TokenizerConfig) -> str:
    """Which of the two kinds of transform codec a model is."""
    settings = config.training.get("experiment", {}).get("settings", {})
    return _TRAINED_CODEC if settings.get("train_encoder") else _CODEC


def _limits(record: dict[str, Any]) -> str:
    """What is known of any model's limits: what it was trained on."""
    items = record.get("train_items")
    seen = f"It was trained on {items:,} items. " if items else ""
    return f"{seen}Nobody has described yet what it is for and what it cannot do: write it here."


def _datasets(config: TokenizerConfig) -> list[str]:
    """The dataset of a built-in model by its name here, and of others the names on the Hugging Face Hub."""
    experiment = config.training.get("experiment", {})
    if config.name in _LIMITS:
        return [dataset_of(config)]
    data = experiment.get("data") or {}
    return [name.rpartition(":")[0] for name in data.get("train", ())] if data.get("kind") == "huggingface" else []


def _front_matter(name: str, configs: list[TokenizerConfig], *, license_name: str | None) -> str:
    datasets = list(dict.fromkeys(dataset for config in configs for dataset in _datasets(config)))
    modalities = list(dict.fromkeys(config.modality for config in configs))
    lines = [
        "---",
        "library_name: daps-tokenizer",
        *([f"license: {license_name}"] if license_name else []),
        f"tags: [tokenizer, discrete-autoencoder, {', '.join(f'{kind}-tokenizer' for kind in modalities)}, onnx]",
        *([f"datasets: [{', '.join(datasets)}]"] if datasets else []),
        f"model_name: {name}",
        "---",
    ]
    return "\n".join(lines)


def _quality(config: TokenizerConfig) -> str:
    evaluation: dict[str, Any] | None = config.training.get("evaluation")
    if evaluation is None:
        return "Not measured."
    columns = {
        "log_p": ("log p(x\\|z), nats", ".2f"),
        "psnr": ("PSNR, dB", ".2f"),
        "l2": ("L2", ".3f"),
        "joint_error": ("joints, degrees", ".2f"),
        "root_error": ("root, cm", ".1f"),
        "foot_sliding": ("feet slide, cm/s", ".1f"),
        "foot_sliding_original": ("of the original", ".1f"),
    }
    columns = {name: column for name, column in columns.items() if f"greedy_{name}" in evaluation}
    rows = [f"| codes | {' | '.join(title for title, _ in columns.values())} |", "|---" * (1 + len(columns)) + "|"]
    kinds = [kind for kind in ("sampled", "greedy") if f"{kind}_log_p" in evaluation]  # a quantiser draws no samples
    for kind in kinds:
        values = (format(evaluation[f"{kind}_{name}"], spec) for name, (_, spec) in columns.items())
        rows.append(f"| {kind} | {' | '.join(values)} |")
    items = "images" if "psnr" in columns else "windows"
    entropy = f" Entropy of q(z|x) {evaluation['entropy']:.1f} nats;" if "entropy" in evaluation else ""
    units = "of black and white pixels" if config.likelihood.kind == "bernoulli" else "in standardised units"
    return "\n".join(rows) + (
        f"\n\n{evaluation['dataset']}, {evaluation['items']:.0f} {items}, seed {evaluation['seed']}, "
        f"{evaluation['date']}, by `python -m train evaluate`{_machine(evaluation)}. log p is {units}"
        f"{_in_the_papers_units(config)}.{entropy} "
        f"{evaluation['codes_used']:.0f} codes in use, perplexity {evaluation['code_perplexity']:.0f}."
    )


def _machine(evaluation: dict[str, Any]) -> str:
    """Where a model was measured; models of before 29 November 2026 have no record of it."""
    machine = evaluation.get("machine")
    return f" on {machine['processor']}, torch {machine['torch']}" if machine else ""


def _in_the_papers_units(config: TokenizerConfig) -> str:
    less = nats_less_in_the_papers_units(config)
    if not less or config.name not in _LIMITS:
        return ""
    sampled, greedy = (config.training["evaluation"][f"{kind}_log_p"] - less for kind in ("sampled", "greedy"))
    return (
        f"; with the deviations that the paper's authors divide by it is {less:,.0f} nats less: {sampled:,.0f} "
        f"sampled, {greedy:,.0f} greedy"
    )


def _training(record: dict[str, Any]) -> str:
    stages = [*record.get("stages_before", []), record] if record else []
    if not stages:
        return "Weights are random: this model was never trained."
    rows = [
        "| stage | method | steps | batch | minutes | device | input | log p: sampled, greedy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    watched: dict[str, list[int]] = {"test": [], "validation": []}
    for number, stage in enumerate(stages, start=1):
        experiment = stage["experiment"]
        rows.append(
            f"| {number} | {experiment['method']} | {stage['steps']} | {experiment['batch_size']} "
            f"| {stage['seconds'] / 60:.0f} | {stage['versions']['device']}, torch {stage['versions']['torch']} "
            f"| {'×'.join(map(str, experiment['model']['input_shape']))} | {_log_p(stage)} |"
        )
        watched["validation" if experiment.get("validation_items") else "test"].append(number)
    return (
        "\n".join(rows)
        + f"\n\nlog p at the end of a stage is of {_watched(watched)}, at its size of input. All settings "
        "of every stage are in `config.json` under `training`."
    )


def _watched(stages: dict[str, list[int]]) -> str:
    """Which stages were watched on which items: figures of two kinds of items do not compare."""
    kinds = {kind: numbers for kind, numbers in stages.items() if numbers}
    if len(kinds) == 1:
        return f"{next(iter(kinds))} items"
    return " and of ".join(
        f"{kind} items in stage{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
        for kind, numbers in kinds.items()
    )


def _log_p(stage: dict[str, Any]) -> str:
    if "validation" not in stage:
        return "not measured"
    sampled, greedy = (stage["validation"][f"{kind}_log_p"] for kind in ("sampled", "greedy"))
    steps = stage.get("validation_step", stage["steps"])  # a run that was stopped is not measured once more
    return f"{sampled:.1f}, {greedy:.1f} nats" + ("" if steps == stage["steps"] else f" after step {steps}")
