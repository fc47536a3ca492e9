"""A generator's checkpoint becomes a folder: config, weights in half precision, and graphs that read them there.

``generator.onnx`` has the loop inside, over steps of a flow or positions of a causal model; ``scorer.onnx``, of a
causal model, is log p of given codes in one pass. There is one copy of the weights, ``model.safetensors``, which the
graphs refer to as ONNX's external data: an offset in the file is all that format asks for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import GraphProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from daps_tokenizer import __version__
from daps_tokenizer.config.generator import Condition, GeneratorConfig
from daps_tokenizer.errors import ModelFileError
from daps_tokenizer.files import new_folder
from daps_tokenizer.generator import Generator
from daps_tokenizer.hub import GeneratorFolder
from daps_tokenizer.model.autoencoder import load_weights
from daps_tokenizer.model.conditions import Conditions
from daps_tokenizer.model.generators import CausalTransformer, FlowTransformer, build_generator, causal_step, flow_step
from daps_tokenizer.model.transformer import Memory
from daps_tokenizer.search.base import draw_uniform
from export.folder import check_free
from export.generator_card import generator_card
from export.modules import FUSED
from export.onnx_graphs import export_graph
from export.splicing import constant, find, node, renamed, value_info

WEIGHTS = "model.safetensors"
_SMALLEST_SHARED = 1024  # bytes; smaller tensors stay in the graph, where shape inference finds them
_GUIDED, _BATCH, _PAST = 2, 3, 4  # sizes to export with: different, and neither 0 nor 1
_SELF_CHECK_ITEMS, _SELF_CHECK_STEPS = 4, 3


class FlowStep(nn.Module):
    """One step of a flow: :func:`daps_tokenizer.model.generators.flow_step`."""

    def __init__(self, network: FlowTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        step: Tensor,
        steps: Tensor,
        codes: Tensor,
        uniform: Tensor,
        labels: Tensor,
        guidance: Tensor,
        temperature: Tensor,
    ) -> Tensor:
        """Codes int32 (B, N) after the step."""
        return flow_step(self.network, codes, step, steps, uniform, labels, guidance, temperature).to(torch.int32)


class CausalStart(nn.Module):
    """What is computed once before the loop of a causal model."""

    def __init__(self, network: CausalTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, labels: Tensor, values: list[Tensor], known: Tensor | None = None
    ) -> Tensor | tuple[Tensor, list[Memory]]:
        """Labels (G, B), values (G, B, size) of each condition, ``known`` (G, B, conditions) -> condition (G, B, H),
        and where there are conditions the memories (G, B, tokens, H) of what stands before the codes."""
        if known is None:
            return self.network.encode(labels.flatten(), None)[0].reshape(*labels.shape, -1)
        conditions = Conditions([each.flatten(0, 1) for each in values], known.flatten(0, 1))
        condition, memories = self.network.begin(labels.flatten(), conditions)
        return condition.reshape(*labels.shape, -1), _unflattened(memories, labels)


class CausalStep(nn.Module):
    """One position of a causal model: :func:`daps_tokenizer.model.generators.causal_step`."""

    def __init__(self, network: CausalTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        position: Tensor,
        previous: Tensor,
        uniform: Tensor,
        condition: Tensor,
        guidance: Tensor,
        temperature: Tensor,
        past: list[Memory],
    ) -> tuple[Tensor, list[Memory]]:
        """Codes int32 (B,), and the memories (G, B, positions, H) with this position."""
        flat = [Memory(*(part.flatten(0, 1) for part in memory)) for memory in past]
        codes, memories = causal_step(self.network, previous, position, uniform, condition, guidance, temperature, flat)
        return codes.to(torch.int32), _unflattened(memories, condition)


class CausalScorer(nn.Module):
    """log p of given codes."""

    def __init__(self, network: CausalTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, codes: Tensor, labels: Tensor, values: list[Tensor], known: Tensor | None = None) -> Tensor:
        """Codes int32 (B, N), labels int64 (B,), and conditions (B, size) with ``known`` (B, conditions) -> (B, N)."""
        return self.network.log_prob(codes, labels, None if known is None else Conditions(values, known))


def _unflattened(memories: list[Memory], like: Tensor) -> list[Memory]:
    """Rows (G · B, ...) as (G, B, ...)."""
    return [Memory(*(part.unflatten(0, like.shape[:2]) for part in memory)) for memory in memories]


def export_generator(
    checkpoint: Path, out: Path, *, name: str | None = None, overwrite: bool = False
) -> GeneratorFolder:
    """Write the folder of a generator; it appears whole or not at all.

    Before it appears, its graphs are run and compared with torch.

    Args:
        checkpoint: a folder that ``python -m train generator`` wrote.
        out: the folder to write.
        name: the generator's name; the checkpoint's if None.
        overwrite: replace a generator's folder that is already there.

    Raises:
        OutputExistsError: ``out`` exists and is not to be overwritten, or is no folder of a generator.
        ModelFileError: the checkpoint lacks a file or has a damaged one, or the graphs do not compute what torch does.
        ConfigError: ``config.json`` is not valid.
    """
    check_free(out, overwrite=overwrite, holds="generator.onnx")
    try:
        config = GeneratorConfig.from_file(checkpoint / "config.json")
        record = json.loads((checkpoint / "training.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFileError(f"{checkpoint}: no {Path(error.filename).name}; expected a checkpoint folder") from None
    config = dataclasses.replace(config, name=name or config.name, training=_shareable(record))
    model = build_generator(config).eval()
    load_weights(model, checkpoint / WEIGHTS)

    with new_folder(out) as made:
        # What is written in half precision is what is exported and compared: rounding is part of the generator.
        save_file({key: value.half().contiguous() for key, value in model.state_dict().items()}, made / WEIGHTS)
        (made / WEIGHTS).chmod(0o644)
        model.load_state_dict({key: value.float() for key, value in load_file(made / WEIGHTS).items()})
        for graph_name, graph in _graphs(model).items():
            _refer_to_weights(graph.graph, model, made / WEIGHTS)
            graph.graph.name, graph.producer_name, graph.producer_version = graph_name, "daps-tokenizer", __version__
            helper.set_model_props(graph, {"model": config.name, "daps_tokenizer_version": __version__})
            onnx.save(graph, made / f"{graph_name}.onnx")
            onnx.checker.check_model(made / f"{graph_name}.onnx", full_check=True)
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(made.iterdir())}
        config = dataclasses.replace(config, files=files)
        (made / "README.md").write_text(generator_card(config), encoding="utf-8")
        (made / "config.json").write_text(config.to_json(), encoding="utf-8")
        _compare(GeneratorFolder(made, config), model, checkpoint)
        if out.exists():
            shutil.rmtree(out)
    return GeneratorFolder(out, config)


def _shareable(record: dict[str, Any]) -> dict[str, Any]:
    """A run's record without the model, which ``config.json`` has, and without names of folders of this machine."""
    for stage in (record, *record.get("stages_before", ())):
        experiment = stage["experiment"]
        experiment.pop("model", None)
        for place in (experiment["codes"], experiment):
            for key in ("folder", "tokenizer", "start_from"):
                if Path(str(place.get(key) or "")).is_absolute():
                    place[key] = Path(place[key]).name
    return record


def _graphs(model: FlowTransformer | CausalTransformer) -> dict[str, onnx.ModelProto]:
    fused: Any = FUSED.of(model)  # type: ignore[arg-type]  # it copies any module
    if isinstance(model, FlowTransformer):
        return {"generator": _flow_loop(fused)}
    return {"generator": _causal_loop(fused), "scorer": _scorer(fused)}


def _flow_loop(network: FlowTransformer) -> onnx.ModelProto:
    """``uniform`` (S + 1, B, N), ``labels`` (G, B), ``guidance`` and ``temperature`` -> ``codes`` (B, N)."""
    num_tokens = network.config.num_tokens
    scalars = (torch.tensor(1), torch.tensor(4))
    codes = torch.zeros(_BATCH, num_tokens, dtype=torch.int32)
    examples = (*scalars, codes, torch.zeros(_BATCH, num_tokens), _example_labels(), *_example_numbers())
    dynamic: Any = ({}, {}, {0: "batch"}, {0: "batch"}, {0: "guided", 1: "batch"}, {}, {})
    names = ["step", "steps", "codes.before", "uniform.step", "labels", "guidance", "temperature"]
    step = export_graph(FlowStep(network), examples, dynamic, names, ["codes.after"])
    body = helper.make_graph(
        [
            node("Add", ["step", "one"], "row"),
            node("Gather", ["uniform", "row"], "uniform.step"),
            *step.graph.node,
            node("Identity", ["go_on"], "go_on.next"),
        ],
        "step",
        [find(step.graph.input, "step"), value_info("go_on", TensorProto.BOOL, []), find(step.graph.input, names[2])],
        [value_info("go_on.next", TensorProto.BOOL, []), find(step.graph.output, "codes.after")],
    )
    nodes = [
        node("Shape", ["uniform"], "rows", start=0, end=1),
        node("Squeeze", ["rows"], "num_rows"),
        node("Sub", ["num_rows", "one"], "steps"),
        node("Gather", ["uniform", "zero"], "uniform.first"),
        node("Mul", ["uniform.first", "vocab_size"], "scaled"),
        node("Cast", ["scaled"], "start", to=TensorProto.INT32),
        helper.make_node("Loop", ["steps", "", "start"], ["codes"], name="loop", body=body),
    ]
    initializers = [
        *step.graph.initializer,
        constant("one", 1),
        constant("zero", 0),
        constant("vocab_size", network.config.vocab_size, np.float32),
    ]
    uniform = value_info("uniform", TensorProto.FLOAT, ["rows_of_noise", "batch", num_tokens])
    return _model(step, nodes, [uniform, find(step.graph.input, "labels")], initializers, num_tokens)


def _causal_loop(network: CausalTransformer) -> onnx.ModelProto:
    """``uniform`` (B, N), ``labels`` (G, B), ``guidance`` and ``temperature`` -> ``codes`` (B, N)."""
    config = network.config
    size, layers = config.network.hidden_size, range(config.network.num_layers)
    past, present = ([f"{when}_{part}_{i}" for i in layers for part in ("keys", "values")] for when in ("past", "now"))
    example_past = [Memory(*(torch.zeros(_GUIDED, _BATCH, _PAST, size) for _ in range(2))) for _ in layers]
    first, numbers = (torch.tensor(1), torch.zeros(_BATCH, dtype=torch.int32)), _example_numbers()
    examples = (*first, torch.zeros(_BATCH), torch.zeros(_GUIDED, _BATCH, size), *numbers, example_past)
    axes: Any = {0: "guided", 1: "batch", 2: "earlier"}
    of_past: Any = [Memory(axes, axes) for _ in layers]
    dynamic: Any = ({}, {0: "batch"}, {0: "batch"}, {0: "guided", 1: "batch"}, {}, {}, of_past)
    names = ["position", "previous", "uniform.step", "condition", "guidance", "temperature", *past]
    step = export_graph(CausalStep(network), examples, dynamic, names, ["drawn", *present])
    start, given = _causal_start(network, ["condition", *[f"first.{name}" for name in past]])
    begun = [f"first.{name}" for name in past] if config.conditions else ["memory"] * len(past)
    memory_info = [
        [value_info(name, TensorProto.FLOAT, [None, None, None, size]) for name in of] for of in (past, present)
    ]
    body = helper.make_graph(
        [
            node("Gather", ["uniform", "position"], "uniform.step", axis=1),
            *step.graph.node,
            # The same codes leave twice, to be fed back and to be collected.
            node("Identity", ["drawn"], "drawn.row"),
            node("Identity", ["go_on"], "go_on.next"),
        ],
        "step",
        [
            find(step.graph.input, "position"),
            value_info("go_on", TensorProto.BOOL, []),
            find(step.graph.input, "previous"),
            *memory_info[0],
        ],
        [
            value_info("go_on.next", TensorProto.BOOL, []),
            find(step.graph.output, "drawn"),
            *memory_info[1],
            value_info("drawn.row", TensorProto.INT32, [None]),
        ],
    )
    no_int = helper.make_tensor("value", TensorProto.INT32, [1], [0])
    no_float = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
    nodes = [
        *start.node,
        node("Shape", ["labels"], "guided_batch"),
        node("Concat", ["guided_batch", "nothing_yet"], "memory_shape", axis=0),
        node("ConstantOfShape", ["memory_shape"], "memory", value=no_float),
        node("Shape", ["uniform"], "batch_size", start=0, end=1),
        node("ConstantOfShape", ["batch_size"], "no_codes", value=no_int),
        helper.make_node(
            "Loop",
            ["num_steps", "", "no_codes", *begun],
            ["last", *[f"{name}.last" for name in past], "columns"],
            name="loop",
            body=body,
        ),
        node("Transpose", ["columns"], "codes", perm=[1, 0]),
    ]
    initializers = [
        *step.graph.initializer,
        *start.initializer,
        constant("nothing_yet", [0, size]),
        constant("num_steps", config.num_tokens),
    ]
    uniform = value_info("uniform", TensorProto.FLOAT, ["batch", config.num_tokens])
    return _model(step, nodes, [uniform, *given], initializers, config.num_tokens)


def _causal_start(network: CausalTransformer, outputs: list[str]) -> tuple[GraphProto, list[Any]]:
    """The graph of :class:`CausalStart` with these outputs, and its inputs, which are inputs of the whole."""
    values, known = _example_conditions(network.config, (_GUIDED, _BATCH))
    rows: Any = {0: "guided", 1: "batch"}
    names = ["labels", *(each.name for each in network.config.conditions)]
    examples: tuple[Any, ...] = (_example_labels(), values)
    dynamic: tuple[Any, ...] = (rows, [rows] * len(values))
    if values:
        examples, dynamic, names = (*examples, known), (*dynamic, rows), [*names, "known"]
    else:
        outputs = outputs[:1]
    graph = export_graph(CausalStart(network), examples, dynamic, names, outputs).graph
    kept = {name: name for name in [*names, *outputs]}
    return renamed(graph, "start.", kept), [find(graph.input, name) for name in names]


def _example_conditions(config: GeneratorConfig, rows: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
    """Values of each condition, (*rows, size), and which are known, (*rows, conditions)."""
    kinds = [torch.int64 if each.codes else torch.float32 for each in config.conditions]
    values = [torch.zeros(*rows, each.size, dtype=kind) for each, kind in zip(config.conditions, kinds, strict=True)]
    return values, torch.ones(*rows, len(values))


def _model(
    step: onnx.ModelProto, nodes: list[Any], own: list[Any], initializers: list[TensorProto], num_tokens: int
) -> onnx.ModelProto:
    inputs = [*own, *(find(step.graph.input, name) for name in ("guidance", "temperature"))]
    outputs = [value_info("codes", TensorProto.INT32, ["batch", num_tokens])]
    graph = helper.make_graph(nodes, "generator", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=step.opset_import, ir_version=step.ir_version)


def _scorer(network: CausalTransformer) -> onnx.ModelProto:
    """``codes`` (B, N) and ``labels`` (B,) -> ``log_probs`` (B, N)."""
    codes = torch.zeros(_BATCH, network.config.num_tokens, dtype=torch.int32)
    values, known = _example_conditions(network.config, (_BATCH,))
    batch: Any = {0: "batch"}
    names = ["codes", "labels", *(each.name for each in network.config.conditions)]
    examples: tuple[Any, ...] = (codes, torch.zeros(_BATCH, dtype=torch.int64), values)
    dynamic: tuple[Any, ...] = (batch, batch, [batch] * len(values))
    if values:
        examples, dynamic, names = (*examples, known), (*dynamic, batch), [*names, "known"]
    return export_graph(CausalScorer(network), examples, dynamic, names, ["log_probs"])


def _example_labels() -> Tensor:
    return torch.zeros(_GUIDED, _BATCH, dtype=torch.int64)


def _example_numbers() -> tuple[Tensor, Tensor]:
    """Guidance and temperature: a tensor of its own each, or the exporter would wire only one."""
    return torch.tensor(1.5), torch.tensor(0.5)


def _refer_to_weights(graph: GraphProto, model: nn.Module, file: Path) -> None:
    """Let large initializers be read from the weights' file, cast to float32 and transposed as they need to be.

    ONNX Runtime does both once, when it loads the graph.
    """
    with file.open("rb") as content:
        (length,) = struct.unpack("<Q", content.read(8))
        places = json.loads(content.read(length))
    known: dict[bytes, tuple[str, bool]] = {}
    for name, value in model.state_dict().items():
        array = value.numpy()
        known[_digest(array)] = name, False
        if array.ndim == 2:
            known.setdefault(_digest(array.T), (name, True))
    kept, stored, nodes = [], {}, []
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.nbytes < _SMALLEST_SHARED or _digest(array) not in known:  # such as the numbers of all codes
            kept.append(tensor)
            continue
        name, transposed = known[_digest(array)]
        if name not in stored:
            begin, end = places[name]["data_offsets"]
            stored[name] = TensorProto(name=f"{name}.half", data_type=TensorProto.FLOAT16, dims=places[name]["shape"])
            stored[name].raw_data = b""
            set_external_data(stored[name], WEIGHTS, offset=8 + length + begin, length=end - begin)
            stored[name].ClearField("raw_data")
        full = f"{tensor.name}.untransposed" if transposed else tensor.name
        nodes.append(node("Cast", [f"{name}.half"], full, to=TensorProto.FLOAT))
        if transposed:
            nodes.append(node("Transpose", [full], tensor.name, perm=[1, 0]))
    del graph.initializer[:]
    graph.initializer.extend([*kept, *stored.values()])
    others = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *others])


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()).digest()


def _compare(folder: GeneratorFolder, model: FlowTransformer | CausalTransformer, checkpoint: Path) -> None:
    """Draw codes by the graphs and by torch, from the same uniform numbers.

    Raises:
        ModelFileError: codes differ in more than one of a hundred, or log p by more than rounding.
    """
    for conditions in (None, _conditions_to_check(folder.config)) if folder.config.conditions else (None,):
        _compare_given(conditions, Generator(folder, num_threads=1), model, checkpoint)


def _compare_given(
    conditions: Mapping[str, np.ndarray] | None,
    opened: Generator,
    model: FlowTransformer | CausalTransformer,
    checkpoint: Path,
) -> None:
    config = opened.config
    label = config.labels[0] if config.labels else None
    is_guided = label is not None or any(each.guided for each in config.conditions if conditions)
    options: dict[str, Any] = {"guidance": 1.5 if is_guided else 0.0, "temperature": 0.9, "conditions": conditions}
    steps = _SELF_CHECK_STEPS if config.kind == "flow" else None
    drawn = opened.sample(label, _SELF_CHECK_ITEMS, seed=0, steps=steps, **options).numpy()
    expected = draw_with_torch(model, label, _SELF_CHECK_ITEMS, seed=0, steps=steps, **options)
    share = float((drawn != expected).mean())
    if share > 0.01:
        raise ModelFileError(f"{checkpoint}: the exported graph draws other codes than torch, a share of {share:.2f}")
    if isinstance(model, CausalTransformer):
        with torch.no_grad():
            numbers = torch.full((len(drawn),), config.no_label)
            given = conditions_of(config, conditions, (len(drawn),))
            ours = model.log_prob(torch.tensor(drawn).long(), numbers, given).double().sum(1).numpy()
        difference = float(np.abs(ours - opened.log_prob(drawn, conditions=conditions)).max())
        if not difference <= 1e-3 * config.num_tokens:
            raise ModelFileError(f"{checkpoint}: the exported graph's log p differs from torch's by {difference:.2g}")


def _conditions_to_check(config: GeneratorConfig) -> dict[str, np.ndarray]:
    """Some values of every condition."""
    random = np.random.default_rng(0)

    def values(condition: Condition) -> np.ndarray:
        if condition.codes:
            return random.integers(config.vocab_size, size=condition.size)
        return random.standard_normal(condition.size)

    return {each.name: values(each) for each in config.conditions}


def conditions_of(
    config: GeneratorConfig, given: Mapping[str, np.ndarray] | None, rows: tuple[int, ...]
) -> Conditions | None:
    """What torch takes for what :meth:`Generator.sample` takes: values repeated for all rows."""
    if not config.conditions:
        return None
    values, known = _example_conditions(config, rows)
    for number, condition in enumerate(config.conditions):
        if condition.name in (given or {}):
            values[number] += torch.as_tensor(given[condition.name])  # type: ignore[index]
        else:
            known[..., number] = 0
    return Conditions(values, known)


@torch.no_grad()
def draw_with_torch(
    model: FlowTransformer | CausalTransformer,
    label: str | None,
    num_samples: int,
    *,
    seed: int,
    steps: int | None,
    guidance: float,
    temperature: float,
    conditions: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """What :meth:`Generator.sample` draws, by torch: codes (S, N); arguments as there."""
    config, weight, heat = model.config, torch.tensor(guidance), torch.tensor(temperature)
    asked = [config.no_label if label is None else config.labels.index(label)]
    if label is not None or conditions:
        asked.append(config.no_label)
    labels = torch.tensor(asked)[:, None].expand(-1, num_samples)
    if isinstance(model, FlowTransformer):
        assert steps is not None
        uniform = torch.from_numpy(draw_uniform((steps + 1, num_samples, config.num_tokens), seed))
        codes = (uniform[0] * config.vocab_size).long()
        for step in range(steps):
            times = torch.tensor(step), torch.tensor(steps)
            codes = flow_step(model, codes, *times, uniform[step + 1], labels, weight, heat)
        return codes.numpy()
    uniform = torch.from_numpy(draw_uniform((num_samples, config.num_tokens), seed))
    past: list[Memory] = []
    given = conditions_of(config, conditions, tuple(labels.shape))
    if given is None:
        condition = model.encode(labels.flatten(), None)[0]
    else:
        guided = [number for number, each in enumerate(config.conditions) if each.guided]
        given.known[1:, :, guided] = 0
        flat = Conditions([value.flatten(0, 1) for value in given.values], given.known.flatten(0, 1))
        condition, past = model.begin(labels.flatten(), flat)
    condition = condition.unflatten(0, labels.shape)
    previous, columns = torch.zeros(num_samples, dtype=torch.long), []
    for position in range(config.num_tokens):
        where = torch.tensor(position)
        previous, past = causal_step(model, previous, where, uniform[:, position], condition, weight, heat, past)
        columns.append(previous)
    return torch.stack(columns, dim=1).numpy()
