"""A graph that is unlike config.json is refused when it is loaded, and its results where their shapes are wrong."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from daps_tokenizer import Tokenizer
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import BackendError, DapsError, ModelFileError
from tests.hub.helpers import write_folder
from tests.settings import MNIST

Change = Callable[[onnx.ModelProto], None]


def decoder(width: int | str = 28, code_type: int = TensorProto.INT32, name: str = "mean") -> onnx.ModelProto:
    """A decoder of grey pictures whatever the codes are: of one picture of this width for each item."""
    sizes = {"reconstruction": TensorProto.UINT8, name: TensorProto.FLOAT, "variance": TensorProto.FLOAT}
    nodes = [
        helper.make_node("Shape", ["codes"], ["batch"], start=0, end=1),
        helper.make_node("Constant", [], ["rest"], value_ints=[28, 28 if isinstance(width, str) else width, 1]),
        helper.make_node("Concat", ["batch", "rest"], ["shape"], axis=0),
    ]
    for output, kind in sizes.items():
        value = helper.make_tensor(output, kind, [1], [1])
        nodes.append(helper.make_node("ConstantOfShape", ["shape"], [output], value=value))
    outputs = [helper.make_tensor_value_info(output, kind, ["batch", 28, width, 1]) for output, kind in sizes.items()]
    graph = helper.make_graph(
        nodes, "decoder", [helper.make_tensor_value_info("codes", code_type, ["batch", 1, 8])], outputs
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def open_with(graph: onnx.ModelProto, folder: Path) -> Tokenizer:
    """A folder of the MNIST setting with this decoder, every file with its own sha256, as whoever made it would."""
    files = {"onnx/decoder.onnx": graph.SerializeToString(), "onnx/weights.bin": b"\0", "model.safetensors": b""}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    config: TokenizerConfig = dataclasses.replace(MNIST, files=sums)
    return Tokenizer.from_pretrained(write_folder(folder, {**files, "config.json": config.to_json().encode()}))


CODES = np.zeros((2, 8), int)


def test_a_graph_that_is_like_its_config_is_run(tmp_path: Path) -> None:
    assert open_with(decoder(), tmp_path).decode(CODES).shape == (2, 28, 28, 1)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            decoder(width=14),
            r"output 'reconstruction' is tensor\(uint8\) of shape \(batch, 28, 14, 1\), and config.json",
        ),
        (decoder(code_type=TensorProto.FLOAT), r"input 'codes' is tensor\(float\) of shape .* says tensor\(int32\)"),
        (decoder(name="means"), r"decoder\.onnx: has no output 'mean'; export the model again"),
    ],
)
def test_a_graph_that_is_unlike_its_config_is_refused(graph: onnx.ModelProto, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=message):
        open_with(graph, tmp_path).decode(CODES)


def test_results_of_another_shape_than_config_says_are_refused(tmp_path: Path) -> None:
    graph = decoder(width="any")
    graph.graph.node[1].CopyFrom(helper.make_node("Constant", [], ["rest"], value_ints=[28, 56, 1]))
    with pytest.raises(
        ModelFileError, match=r"returned 'reconstruction' of shape \(2, 28, 56, 1\); expected \(2, 28, 28"
    ):
        open_with(graph, tmp_path).decode(CODES)


def test_what_fails_as_it_runs_is_one_line(tmp_path: Path) -> None:
    graph = decoder()
    graph.graph.node[1].CopyFrom(helper.make_node("Constant", [], ["rest"], value_ints=[28, -28, 1]))
    with pytest.raises(
        BackendError, match=r"decoder\.onnx: ONNX Runtime cannot run it \(.*export the model again"
    ) as caught:
        open_with(graph, tmp_path).decode(CODES)
    assert isinstance(caught.value, DapsError) and "\n" not in str(caught.value)
