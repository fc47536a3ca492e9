"""A generator's folder: what is in it, that its graphs draw what torch draws, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from daps_tokenizer import Generator
from daps_tokenizer.hub import open_generator, open_model
from daps_tokenizer.model.generators import build_generator
from export.__main__ import main
from export.generator import conditions_of, draw_with_torch
from tests.generators import random_generator_checkpoint


@pytest.mark.parametrize("kind", ["flow", "causal"])
@pytest.mark.parametrize("label", ["square", None])
def test_the_graphs_draw_what_torch_draws(kind: str, label: str | None, random_generators: dict[str, Path]) -> None:
    folder = random_generators[kind]
    config = open_generator(folder).config
    model = build_generator(config).eval()
    model.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
    steps, options = (5 if kind == "flow" else None), {"guidance": 2.0 if label else 0.0, "temperature": 0.7}
    drawn = Generator.from_pretrained(folder).sample(label, 64, seed=1, steps=steps, **options).numpy()
    expected = draw_with_torch(model, label, 64, seed=1, steps=steps, **options)
    assert (drawn == expected).mean() > 0.99  # where two codes nearly tie, rounding decides
    if kind == "causal":
        labels = torch.full((64,), config.no_label if label is None else config.labels.index(label))
        with torch.no_grad():
            log_p = model.log_prob(torch.tensor(drawn), labels).double().sum(1)
        found = Generator.from_pretrained(folder).log_prob(drawn, label)
        assert np.allclose(found, log_p.numpy(), atol=1e-3)


@pytest.mark.parametrize("told", [(), ("text",), ("text", "path", "before"), ("before",)])
def test_the_graphs_know_what_torch_is_told(told: tuple[str, ...], random_text_generator: Path) -> None:
    config = open_generator(random_text_generator).config
    model = build_generator(config).eval()
    weights = load_file(random_text_generator / "model.safetensors")
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    random = np.random.default_rng(0)
    values = {"text": random.normal(size=384), "path": random.normal(size=128), "before": random.integers(0, 256, 8)}
    conditions = {name: values[name] for name in told}
    options = {"guidance": 2.0 if "text" in told else 0.0, "temperature": 0.7}
    generator = Generator.from_pretrained(random_text_generator)
    drawn = generator.sample(None, 64, seed=1, conditions=conditions, **options).numpy()
    expected = draw_with_torch(model, None, 64, seed=1, steps=None, conditions=conditions, **options)
    assert (drawn == expected).mean() > 0.99
    given = conditions_of(config, conditions, (64,))
    with torch.no_grad():
        log_p = model.log_prob(torch.tensor(drawn), torch.zeros(64, dtype=torch.long), given).double().sum(1)
    assert np.allclose(generator.log_prob(drawn, conditions=conditions), log_p.numpy(), atol=1e-3)
    if told:
        untold = generator.sample(None, 64, seed=1, guidance=0.0, temperature=0.7)
        assert not np.array_equal(drawn, untold.numpy())


def test_there_is_one_copy_of_the_weights_and_no_name_of_this_machine(random_generators: dict[str, Path]) -> None:
    for folder in random_generators.values():
        config = open_generator(folder).config
        graphs = [path.name for path in sorted(folder.glob("*.onnx"))]
        assert sorted(config.files) == sorted([*graphs, "model.safetensors"])
        for name in graphs:
            graph = onnx.load(folder / name, load_external_data=False).graph
            sizes = [len(tensor.raw_data) for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
            assert max(sizes, default=0) < 1024
        assert "/home" not in (folder / "config.json").read_text()
        assert "On codes of codes, 64 items" in (folder / "README.md").read_text()


def test_what_cannot_be_written_gets_one_line(
    random_generators: dict[str, Path], random_mnist_folder: Path, tmp_path: Path
) -> None:
    def refusal(*arguments: object) -> str:
        result = CliRunner().invoke(main, ["generator", *map(str, arguments)])
        assert result.exit_code == 2
        return result.output

    refused = "already exists; choose another folder or pass --force\n"
    assert refusal(tmp_path, random_generators["flow"]) == f"error: {random_generators['flow']} {refused}"
    (tmp_path / "notes").mkdir()
    checkpoint = tmp_path / "checkpoint"
    random_generator_checkpoint("flow", open_model("daps-mnist"), checkpoint)
    for kept in (tmp_path / "notes", checkpoint, random_mnist_folder):
        refused = "was not exported (no generator.onnx in it), so --force does not replace it\n"
        assert refusal(checkpoint, kept, "--force") == f"error: {kept} exists and {refused}"
    assert (checkpoint / "training.json").is_file()
    missing = f"error: {tmp_path}/none: no config.json; expected a checkpoint folder\n"
    assert refusal(tmp_path / "none", tmp_path / "out") == missing


def test_a_record_keeps_every_setting_but_the_model(random_generators: dict[str, Path]) -> None:
    record = open_generator(random_generators["flow"]).config.training
    assert record["steps"] == 8 and "model" not in record["experiment"]
    assert json.dumps(dataclasses.asdict(open_generator(random_generators["flow"]).config))
