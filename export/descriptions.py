"""What the graphs say of themselves: the model and its version, and a line about each input and output."""

from __future__ import annotations

import onnx
from onnx import helper

from daps_tokenizer import __version__
from daps_tokenizer.config import TokenizerConfig

_GRAPHS = {
    "encoder": "Draws codes span by span, each in passes until nothing changes: the codes of the sequential loop.",
    "encoder_context": "The part of the encoder that is computed once per input. One row per window.",
    "encoder_pass": "The part of the encoder that chooses all codes anew. Repeat until new_codes equals codes.",
    "encoder_step": "The part of the encoder that draws one position, for rows that do not settle in a few passes.",
    "decoder": "Reconstructs inputs from codes.",
    "scorer": "log q(z|x) of given codes, and the most probable codes, all positions at once.",
    "likelihood": "How well codes explain inputs: log p(x|z) and squared error, summed over each code's own part.",
}
_VALUES = {
    "images": "uint8 pixels (batch, height, width, channels).",
    "features": "Motion features (batch, frames, features) in the units of config.json.",
    "uniform": "Uniform random numbers in [0, 1), one per code. Not used at temperature 0.",
    "temperature": "0 takes the most probable codes, 1 samples q(z|x).",
    "codes": "Codes from 0 to vocab_size - 1, row by row.",
    "new_codes": "The codes of this pass.",
    "log_probs": "log q of each code at temperature 1, given the codes before it, in nats.",
    "passes": "Positions computed for each window, divided by its codes: 1 in the sequential loop.",
    "k": "How many of the most probable codes to give.",
    "top_codes": "The k most probable codes at each position, the most probable first.",
    "reconstruction": "The mean in the units of the inputs.",
    "mean": "Mean of p(x|z) in standardised units.",
    "variance": "Variance of p(x|z) in standardised units.",
    "log_likelihood": "log p(x|z) in nats, in the shape of the codes.",
    "squared_error": "Squared error of the mean in standardised units, in the shape of the codes.",
    "position": "The index of the position, from 0.",
    "previous": "The codes of the position before; zeros at the first.",
}
_MEMORIES = {
    "context": "What the encoder knows of the input.",
    "past": "Keys or values of earlier positions; zeros at the first.",
    "present": "The past with this position added.",
}


def describe(model: onnx.ModelProto, name: str, config: TokenizerConfig) -> None:
    """Write into a graph what it is, for whoever opens it without this package."""
    model.graph.name = name
    model.doc_string = _GRAPHS[name]
    model.producer_name, model.producer_version = "daps-tokenizer", __version__
    helper.set_model_props(model, {"model": config.name, "daps_tokenizer_version": __version__})
    for value in [*model.graph.input, *model.graph.output]:
        value.doc_string = _VALUES.get(value.name) or _MEMORIES[value.name.partition("_")[0]]
