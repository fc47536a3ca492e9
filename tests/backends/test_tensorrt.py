"""TensorRT: half-precision graphs on the CPU, and engines where a TensorRT that builds without a GPU is installed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from daps_tokenizer.backends import open_backend, tensorrt_engines
from daps_tokenizer.backends.gpus import Gpu, find_gpu
from daps_tokenizer.backends.precision import load_graph
from daps_tokenizer.backends.tensorrt_engines import PROFILES, Profile, prepare_engines, profile_for, sizes_of
from daps_tokenizer.errors import BackendError
from daps_tokenizer.hub import ModelFolder, open_model

HALVES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
GRAPHS = ("encoder_context", "encoder_pass", "encoder_step", "decoder")
needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx-cu13")
without_tensorrt = pytest.mark.skipif(
    any(importlib.util.find_spec(name) for name in ("tensorrt", "tensorrt_rtx")), reason="TensorRT is installed"
)


@pytest.fixture(scope="module")
def cifar() -> ModelFolder:
    return open_model("daps-cifar10")


def run(graph: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feed), strict=True))


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("graph", GRAPHS)
def test_half_precision_graphs_are_valid_and_only_memories_change_their_type(
    cifar: ModelFolder, graph: str, precision: str
) -> None:
    source = cifar.path / "onnx" / f"{graph}.onnx"
    full, half = load_graph(source, "float32"), load_graph(source, precision)
    onnx.checker.check_model(half, full_check=True)
    for before, after in zip(
        [*full.graph.input, *full.graph.output], [*half.graph.input, *half.graph.output], strict=True
    ):
        is_memory = before.name.startswith(("context_", "past_", "present_"))
        expected = HALVES[precision] if is_memory else before.type.tensor_type.elem_type
        assert (after.name, after.type.tensor_type.elem_type) == (before.name, expected)
    assert len(half.SerializeToString()) < 0.75 * len(full.SerializeToString())


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("chooser", ["encoder_pass", "encoder_step"])
def test_logits_softmax_and_normalisation_stay_float32(cifar: ModelFolder, chooser: str, precision: str) -> None:
    graph = onnx.shape_inference.infer_shapes(
        load_graph(cifar.path / f"onnx/{chooser}.onnx", precision), data_prop=True
    ).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    kept = [node for node in graph.node if node.op_type in ("Softmax", "LogSoftmax", "LayerNormalization", "CumSum")]
    assert len(kept) > 10 and all(types[node.output[0]] == TensorProto.FLOAT for node in kept)
    made_by = {node.output[0]: node for node in graph.node}
    logits = next(node.input[0] for node in graph.node if node.op_type == "ArgMax")
    while made_by[logits].op_type == "Reshape":
        logits = made_by[logits].input[0]
    products = {node.output[0]: types[node.output[0]] for node in graph.node if node.op_type in ("Gemm", "MatMul")}
    assert products.pop(logits) == TensorProto.FLOAT
    assert len(products) > 20 and set(products.values()) == {HALVES[precision]}


def test_float16_graphs_compute_nearly_what_float32_graphs_do(cifar: ModelFolder) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    codes: dict[str, list[np.ndarray]] = {}
    decoded = {}
    for precision in ("float32", "float16"):
        context, _, step, decoder = (load_graph(cifar.path / f"onnx/{name}.onnx", precision) for name in GRAPHS)
        memories = run(context, {"images": images})
        kind = np.float16 if precision == "float16" else np.float32
        past = {name.replace("context", "past"): np.zeros_like(value) for name, value in memories.items()}
        assert all(value.dtype == kind for value in memories.values())
        previous, codes[precision] = np.zeros(4, np.int32), []
        for position in range(16):
            feed = {"position": np.array(position), "previous": previous, "uniform": np.zeros(4, np.float32)}
            made = run(step, feed | {"temperature": np.array(0, np.float32)} | memories | past)
            past = {name.replace("present", "past"): made[name] for name in made if name.startswith("present")}
            previous = made["codes"]
            codes[precision].append(previous)
        given = np.random.default_rng(1).integers(0, 512, (4, 8, 8), dtype=np.int32)
        decoded[precision] = run(decoder, {"codes": given})["mean"]
    assert np.mean(np.stack(codes["float32"]) == np.stack(codes["float16"])) > 0.95
    np.testing.assert_allclose(decoded["float16"], decoded["float32"], atol=0.02)


@without_tensorrt
def test_a_machine_without_tensorrt_is_told_what_to_install(cifar: ModelFolder) -> None:
    for use in (lambda: prepare_engines(cifar, "float16"), lambda: open_tensorrt(cifar)):
        with pytest.raises(
            BackendError, match=r"needs TensorRT, which is not installed; install it with pip install .*\[tensorrt\]"
        ):
            use()


def test_an_engine_is_found_again_by_all_that_it_depends_on(
    cifar: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(*, name: str = "H100", version: str = "10.13", recipe: int = 1, graph: str = "decoder") -> str:
        trt = SimpleNamespace(__name__="tensorrt", __version__=version)
        monkeypatch.setattr(tensorrt_engines, "find_gpu", lambda: Gpu(name, (9, 0), (13, 0)))
        monkeypatch.setattr(tensorrt_engines, "_RECIPE", recipe)
        return tensorrt_engines._key(trt, cifar, graph, "float16", PROFILES)

    others = [key(name="H200"), key(version="11.0"), key(recipe=2), key(graph="encoder_pass")]
    assert key() == key() and len({key(), *others}) == 1 + len(others)
    assert all(each.startswith("float16-sm_90-") for each in others)


def test_a_profile_is_chosen_by_the_shape_of_what_goes_in() -> None:
    photo = open_model("daps-photo-256").config
    side = 256 + 2 * photo.recognition.surroundings
    for graph, shapes in (
        ("encoder_context", [(1, 256, 256), (64, 256, 256), (1, side, side), (3, side, side)]),
        ("encoder_pass", [(16,), (32,)]),
        ("decoder", [(1, 32, 32), (2, 32, 32), (1, 100, 200)]),
    ):
        chosen = [profile_for(photo, graph, (*shape, 3)) for shape in shapes]
        assert chosen == list(enumerate(shapes)) and len(chosen) == len(sizes_of(photo, graph)), graph
    with pytest.raises(BackendError, match=r"no profile of the engine of encoder_context takes .* \(1, 260, 260, 3\)"):
        profile_for(photo, "encoder_context", (1, 260, 260, 3))
    assert sizes_of(open_model("daps-cifar10").config, "encoder_context") == PROFILES


@needs_rtx
@pytest.mark.skipif(find_gpu() is not None, reason="this machine has an NVIDIA GPU")
def test_a_machine_without_a_gpu_is_told_so(cifar: ModelFolder) -> None:
    with pytest.raises(BackendError, match="backend 'tensorrt' needs an NVIDIA GPU and its driver, and finds none"):
        open_tensorrt(cifar)


def open_tensorrt(folder: ModelFolder) -> None:
    open_backend(folder, backend="tensorrt", device=None, dtype="float16")


def test_a_precision_that_there_is_not_is_refused(cifar: ModelFolder) -> None:
    with pytest.raises(BackendError, match="backend 'tensorrt' has no dtype 'int8'; accepted are float32, float16, bf"):
        prepare_engines(cifar, "int8")


@needs_rtx
@pytest.mark.parametrize(("name", "windows"), [("daps-cifar10", 1), ("daps-photo-256", 16)])
def test_all_engines_are_built_and_kept(name: str, windows: int, tmp_path: Path) -> None:
    model = open_model(name)
    profiles = (Profile((1,), (4,), (8,)),)
    options = {"profiles": profiles, "cache": tmp_path}
    engines = {engine.graph: engine for engine in prepare_engines(model, "float16", **options)}
    assert list(engines) == list(GRAPHS) and not any(engine.was_cached for engine in engines.values())
    assert all(engine.path.stat().st_size > 100_000 for engine in engines.values())
    tensors = {graph: {tensor.name: tensor for tensor in engine.tensors} for graph, engine in engines.items()}
    around, (height, width, channels) = model.config.recognition.surroundings, model.config.input_shape
    images = tensors["encoder_context"]["images"]
    assert images.shape == ((-1, -1, -1, channels) if around else (-1, height, width, channels))
    seen = [(height, width), (height + 2 * around, width + 2 * around)] if around else [()]
    assert [profile.most for profile in images.profiles] == [(8, *sides) for sides in seen]
    assert [profile.most for profile in tensors["decoder"]["codes"].profiles] == [
        (8, *model.config.token_grid),
        (1, 256, 256),
    ]
    once_more, step, count = tensors["encoder_pass"], tensors["encoder_step"], model.config.num_tokens // windows
    assert once_more["codes"].shape == once_more["new_codes"].shape == (-1, count)
    assert (step["past_keys_0"].shape, step["past_keys_0"].dtype) == ((-1, 4, count, 32), "HALF")
    rows = (Profile((windows,), (4 * windows,), (8 * windows,)),)
    assert step["uniform"].profiles == once_more["uniform"].profiles == rows
    assert (step["position"].dtype, step["codes"].dtype, step["log_probs"].dtype) == ("INT64", "INT32", "FLOAT")
    assert [tensor.dtype for tensor in tensors["decoder"].values()] == ["INT32", "UINT8", "FLOAT", "FLOAT"]

    again = prepare_engines(model, "float16", **options)
    assert all(engine.was_cached for engine in again)
    assert [engine.tensors for engine in again] == [engine.tensors for engine in engines.values()]


@needs_rtx
def test_the_command_lists_what_goes_in_and_out(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "export", "tensorrt", "daps-cifar10", "--cache", str(tmp_path), "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    engines = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [engine["graph"] for engine in engines] == list(GRAPHS) and not any(e["was_cached"] for e in engines)
