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
from daps_tokenizer.config.generator import GeneratorConfig
from daps_tokenizer.errors import ModelFileError, OutputExistsError
from daps_tokenizer.files import new_folder
from daps_tokenizer.generator import Generator
from daps_tokenizer.hub import GeneratorFolder
from daps_tokenizer.model.autoencoder import load_weights
from daps_tokenizer.model.generators import CausalTransformer, FlowTransformer, build_generator, causal_step, flow_step
from daps_tokenizer.model.transformer import Memory
from daps_tokenizer.search.base import draw_uniform
from export.generator_card import generator_card
from export.modules import FUSED
from export.onnx_graphs import export_graph
from export.splicing import constant, find, node, value_info

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
        labels: Tensor,
        guidance: Tensor,
        temperature: Tensor,
        past: list[Memory],
    ) -> tuple[Tensor, list[Memory]]:
        """Codes int32 (B,), and the memories (G, B, positions, H) with this position."""
        flat = [Memory(*(part.flatten(0, 1) for part in memory)) for memory in past]
        codes, memories = causal_step(self.network, previous, position, uniform, labels, guidance, temperature, flat)
        return codes.to(torch.int32), [Memory(*(p.reshape(*labels.shape, *p.shape[1:]) for p in m)) for m in memories]


class CausalScorer(nn.Module):
    """log p of given codes."""

    def __init__(self, network: CausalTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Codes int32 (B, N) and labels int64 (B,) -> (B, N)."""
        return self.network.log_prob(codes, labels)


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
    if out.exists() and not (overwrite and (out / "config.json").is_file()):
        raise OutputExistsError(f"{out} already exists; choose another folder, or pass --force to replace a generator")
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
    return _model(step, nodes, uniform, initializers, num_tokens)


def _causal_loop(network: CausalTransformer) -> onnx.ModelProto:
    """``uniform`` (B, N), ``labels`` (G, B), ``guidance`` and ``temperature`` -> ``codes`` (B, N)."""
    config = network.config
    size, layers = config.network.hidden_size, range(config.network.num_layers)
    past, present = ([f"{when}_{part}_{i}" for i in layers for part in ("keys", "values")] for when in ("past", "now"))
    example_past = [Memory(*(torch.zeros(_GUIDED, _BATCH, _PAST, size) for _ in range(2))) for _ in layers]
    first, numbers = (torch.tensor(1), torch.zeros(_BATCH, dtype=torch.int32)), _example_numbers()
    examples = (*first, torch.zeros(_BATCH), _example_labels(), *numbers, example_past)
    axes: Any = {0: "guided", 1: "batch", 2: "earlier"}
    of_past: Any = [Memory(axes, axes) for _ in layers]
    dynamic: Any = ({}, {0: "batch"}, {0: "batch"}, {0: "guided", 1: "batch"}, {}, {}, of_past)
    names = ["position", "previous", "uniform.step", "labels", "guidance", "temperature", *past]
    step = export_graph(CausalStep(network), examples, dynamic, names, ["drawn", *present])
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
        node("Shape", ["labels"], "guided_batch"),
        node("Concat", ["guided_batch", "nothing_yet"], "memory_shape", axis=0),
        node("ConstantOfShape", ["memory_shape"], "memory", value=no_float),
        node("Shape", ["uniform"], "batch_size", start=0, end=1),
        node("ConstantOfShape", ["batch_size"], "no_codes", value=no_int),
        helper.make_node(
            "Loop",
            ["num_steps", "", "no_codes", *["memory"] * len(past)],
            ["last", *[f"{name}.last" for name in past], "columns"],
            name="loop",
            body=body,
        ),
        node("Transpose", ["columns"], "codes", perm=[1, 0]),
    ]
    initializers = [
        *step.graph.initializer,
        constant("nothing_yet", [0, size]),
        constant("num_steps", config.num_tokens),
    ]
    uniform = value_info("uniform", TensorProto.FLOAT, ["batch", config.num_tokens])
    return _model(step, nodes, uniform, initializers, config.num_tokens)


def _model(
    step: onnx.ModelProto, nodes: list[Any], uniform: Any, initializers: list[TensorProto], num_tokens: int
) -> onnx.ModelProto:
    inputs = [uniform, *(find(step.graph.input, name) for name in ("labels", "guidance", "temperature"))]
    outputs = [value_info("codes", TensorProto.INT32, ["batch", num_tokens])]
    graph = helper.make_graph(nodes, "generator", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=step.opset_import, ir_version=step.ir_version)


def _scorer(network: CausalTransformer) -> onnx.ModelProto:
    """``codes`` (B, N) and ``labels`` (B,) -> ``log_probs`` (B, N)."""
    codes = torch.zeros(_BATCH, network.config.num_tokens, dtype=torch.int32)
    examples = (codes, torch.zeros(_BATCH, dtype=torch.int64))
    batch = {0: "batch"}
    return export_graph(CausalScorer(network), examples, (batch, batch), ["codes", "labels"], ["log_probs"])


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
    opened, config = Generator(folder, num_threads=1), folder.config
    options: dict[str, Any] = {"guidance": 1.5, "temperature": 0.9}
    labels = config.labels[:1] or (None,)
    steps = _SELF_CHECK_STEPS if config.kind == "flow" else None
    drawn = opened.sample(labels[0], _SELF_CHECK_ITEMS, seed=0, steps=steps, **options).numpy()
    expected = draw_with_torch(model, labels[0], _SELF_CHECK_ITEMS, seed=0, steps=steps, **options)
    share = float((drawn != expected).mean())
    if share > 0.01:
        raise ModelFileError(f"{checkpoint}: the exported graph draws other codes than torch, a share of {share:.2f}")
    if isinstance(model, CausalTransformer):
        with torch.no_grad():
            numbers = torch.full((len(drawn),), config.no_label)
            ours = model.log_prob(torch.tensor(drawn).long(), numbers).double().sum(1).numpy()
        difference = float(np.abs(ours - opened.log_prob(drawn)).max())
        if not difference <= 1e-3 * config.num_tokens:
            raise ModelFileError(f"{checkpoint}: the exported graph's log p differs from torch's by {difference:.2g}")


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
) -> np.ndarray:
    """What :meth:`Generator.sample` draws, by torch: codes (S, N); arguments as there."""
    config, weight, heat = model.config, torch.tensor(guidance), torch.tensor(temperature)
    asked = [config.no_label] if label is None else [config.labels.index(label), config.no_label]
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
    previous, columns = torch.zeros(num_samples, dtype=torch.long), []
    for position in range(config.num_tokens):
        where = torch.tensor(position)
        previous, past = causal_step(model, previous, where, uniform[:, position], labels, weight, heat, past)
        columns.append(previous)
    return torch.stack(columns, dim=1).numpy()
