"""What the graphs of a model folder take and return: checked when one is loaded, and of its results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from daps_tokenizer.backends.batching import own_grid
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ModelFileError

_Shape = tuple[int | None, ...]  # None is any size
_UINT8, _FLOAT, _INT32, _INT64 = "tensor(uint8)", "tensor(float)", "tensor(int32)", "tensor(int64)"


class _Graph(NamedTuple):
    """ONNX's name of the type, and the shape, of each input and output."""

    inputs: Mapping[str, tuple[str, _Shape]]
    outputs: Mapping[str, tuple[str, _Shape]]


def _described(config: TokenizerConfig, graph: str, fed: Mapping[str, np.ndarray] | None = None) -> _Graph | None:
    """A graph of this model; its outputs for these inputs, or for any if None. None where the graph is not known."""
    is_image, tokens = config.modality == "image", config.num_tokens
    name, kind = ("images", _UINT8) if is_image else ("features", _FLOAT)
    batch = None if fed is None else len(next(array for array in fed.values() if array.ndim))
    grid: _Shape = (None, None) if config.token_grid else own_grid(config)
    if fed is not None and "codes" in fed:
        grid = fed["codes"].shape[1:]
    item: _Shape = config.input_shape
    if config.token_grid:
        cells = tuple(size // count for size, count in zip(config.input_shape, config.token_grid, strict=False))
        whole = (None if size is None else size * cell for size, cell in zip(grid, cells, strict=False))
        item = (*whole, config.input_shape[-1])
    # With surroundings, tiles of a photograph have more pixels than the model's size.
    seen = (None, None, config.input_shape[-1]) if config.recognition.surroundings else config.input_shape
    inputs: dict[str, tuple[str, _Shape]] = {name: (kind, (batch, *seen))}
    codes = {"codes": (_INT32, (batch, tokens))}
    log_probs = {"log_probs": (_FLOAT, (batch, tokens))}
    grids = {"codes": (_INT32, (batch, *grid))}
    moments = dict.fromkeys(("mean", "variance"), (_FLOAT, (batch, *item)))
    sums = dict.fromkeys(("log_likelihood", "squared_error"), (_FLOAT, (batch, *grid)))
    k = None if fed is None or "k" not in fed else int(fed["k"])
    described = {
        "encoder": _Graph(
            inputs | {"uniform": (_FLOAT, (batch, tokens)), "temperature": (_FLOAT, ())}, codes | log_probs
        ),
        "decoder": _Graph(grids, {"reconstruction": (kind, (batch, *item)), **moments}),
        "scorer": _Graph(inputs | codes | {"k": (_INT64, ())}, log_probs | {"top_codes": (_INT32, (batch, tokens, k))}),
        "likelihood": _Graph({name: (kind, (batch, *item))} | grids, sums),
    }
    return described.get(graph)


def check_graph(config: TokenizerConfig, graph: str, session: Any, source: str) -> None:
    """Refuse a graph that is not one of the model that ``config.json`` describes.

    Raises:
        ModelFileError: naming ``source`` and the input or output, with what is expected.
    """
    expected = _described(config, graph)
    if expected is None:
        return
    given_inputs = {node.name: node for node in session.get_inputs()}
    for name in given_inputs.keys() - expected.inputs.keys():
        raise ModelFileError(f"{source}: takes {name!r}, which {graph} graphs do not; export the model again")
    given_outputs = {node.name: node for node in session.get_outputs()}
    for direction, wanted, given in (
        ("input", expected.inputs, given_inputs),
        ("output", expected.outputs, given_outputs),
    ):
        for name, (kind, shape) in wanted.items():
            if name not in given:
                raise ModelFileError(f"{source}: has no {direction} {name!r}; export the model again")
            found = given[name].type, tuple(given[name].shape)
            if found[0] != kind or not _fits(found[1], shape):
                raise ModelFileError(
                    f"{source}: {direction} {name!r} is {found[0]} of shape {_text(found[1])}, and config.json says "
                    f"{kind} of shape {_text(shape)}; export the model again"
                )


def check_results(
    config: TokenizerConfig, graph: str, fed: Mapping[str, np.ndarray], results: Mapping[str, Any]
) -> None:
    """Refuse results of other shapes than config.json says, which open axes of a graph allow.

    Raises:
        ModelFileError: naming the output.
    """
    expected = _described(config, graph, fed)
    for name, array in results.items():
        if expected is not None and name in expected.outputs and not _fits(array.shape, expected.outputs[name][1]):
            raise ModelFileError(
                f"onnx/{graph}.onnx of {config.name}: returned {name!r} of shape {_text(array.shape)}; expected "
                f"{_text(expected.outputs[name][1])}"
            )


def _fits(given: tuple[object, ...], wanted: _Shape) -> bool:
    """Whether shapes are equal where both are numbers; a graph names the axes that it leaves open."""
    return len(given) == len(wanted) and all(
        not isinstance(a, int) or b is None or a == b for a, b in zip(given, wanted, strict=True)
    )


def _text(shape: tuple[object, ...]) -> str:
    return f"({', '.join('?' if size is None else str(size) for size in shape)})"
