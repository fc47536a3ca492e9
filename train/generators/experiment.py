"""One generator, one YAML file: the codes, the network, the kind and the schedule, checked before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_args

from safetensors import safe_open
from torch import Tensor

from daps_tokenizer.config import config_from_dict
from daps_tokenizer.config.generator import (
    GeneratorConfig,
    GeneratorKind,
    TokenizerReference,
    TransformerConfig,
    check_defaults,
)
from daps_tokenizer.data.place import data_folder
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.hub import open_model
from daps_tokenizer.model.autoencoder import load_weights
from daps_tokenizer.model.conditions import standardised_books
from daps_tokenizer.model.generators import CausalTransformer, FlowTransformer, build_generator
from daps_tokenizer.motion.generation import motion_conditions
from train.dashboard import Curves, draw_dashboard
from train.data import Dataset
from train.experiment import Experiment, Precision, check_counts, read_changed
from train.generators import GENERATORS, GeneratorMethod
from train.generators.base import GeneratorSettings
from train.generators.codes import CodesConfig, open_codes
from train.items import Items
from train.optimisation import OptimiserConfig
from train.processes import main_first

_TABLE = "recognition.code_books.table"
CURVES: Curves = (("nats a code", ("nats_per_code",)), ("bits an item", ("bits_per_item",)))


@dataclass(frozen=True)
class GeneratorExperiment:
    """Everything a run depends on.

    Args:
        name: the run's folder under ``runs/``, and the generator's name.
        kind: ``flow`` or ``causal``.
        codes: what it is trained on.
        network: the transformer.
        defaults: of ``steps``, ``guidance`` and ``temperature`` when codes are drawn.
        settings: see :class:`GeneratorSettings`.
        validation_items: images that are held out, on whose codes the run is evaluated; 0 evaluates on training codes.
        start_from: a checkpoint folder whose weights the run starts from.

    What else there is means what it means in :class:`train.experiment.Experiment`. ``model`` is made of these and of
    what the codes say of themselves.
    """

    name: str
    kind: GeneratorKind
    codes: CodesConfig
    steps: int
    batch_size: int
    network: TransformerConfig = field(default_factory=TransformerConfig)
    defaults: dict[str, Any] = field(default_factory=dict)
    settings: GeneratorSettings = field(default_factory=GeneratorSettings)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    start_from: str | None = None
    precision: Precision = "fp32"
    seed: int = 0
    log_every: int = 50
    validation_items: int = 1000
    evaluate_every: int = 1000
    evaluation_items: int = 1000
    checkpoint_every: int = 1000
    model: GeneratorConfig | None = None

    # What the training loop also asks an experiment for, and a generator has none of.
    data: ClassVar[None] = None
    aligned: ClassVar[bool] = False
    status: ClassVar[tuple[str, str]] = ("nats a code", "nats_per_code")

    def __post_init__(self) -> None:
        if self.kind not in get_args(GeneratorKind):
            raise ConfigError(f"kind must be one of {', '.join(get_args(GeneratorKind))}, not {self.kind!r}")
        if self.precision not in get_args(Precision):
            raise ConfigError(f"precision must be one of {', '.join(get_args(Precision))}, not {self.precision!r}")
        check_counts(self)
        for key in self.defaults:
            if key not in ("steps", "guidance", "temperature"):
                raise ConfigError(f"defaults: {key!r} is not known; known are steps, guidance and temperature")
        if self.kind == "causal" and "steps" in self.defaults:
            raise ConfigError("defaults: steps are of a flow; a causal generator draws one code after the other")
        check_defaults(**self.defaults)  # now, not after the codes were made

    def build_model(self) -> FlowTransformer | CausalTransformer:
        """The network, with random weights."""
        assert self.model is not None  # open_generator has made it
        model = build_generator(self.model)
        if isinstance(model, CausalTransformer) and model.books is not None and self.codes.tokenizer is not None:
            model.books.books.copy_(_code_books(self.codes.tokenizer))
        return model

    def build_method(self, model: FlowTransformer | CausalTransformer) -> GeneratorMethod:
        """The network with its loss."""
        return GENERATORS[self.kind](model, self.settings)

    def load_start(self, model: FlowTransformer | CausalTransformer, source: Path) -> None:
        """Take the weights of a checkpoint of the same network."""
        load_weights(model, source / "model.safetensors")

    def evaluate(self, method: GeneratorMethod, items: Items) -> dict[str, float]:
        """See :meth:`GeneratorMethod.evaluate`."""
        return method.evaluate(items, limit=self.evaluation_items)  # type: ignore[arg-type]  # CodeItems, by open_codes

    def draw(self, path: Path, metrics_file: Path, method: GeneratorMethod, items: Items) -> None:
        """The dashboard: curves alone, as pictures need the tokenizer."""
        draw_dashboard(path, metrics_file, CURVES)


AnyExperiment = Experiment | GeneratorExperiment  # what the loop trains


def load_generator(path: Path, changes: Sequence[str] = ()) -> GeneratorExperiment:
    """Read a generator's YAML file; its codes are not opened.

    Args:
        path: the file.
        changes: settings in place of the file's, as ``steps=100`` or ``optimiser.learning_rate=1e-3``.

    Raises:
        ConfigError: missing file, not YAML, unknown or missing keys, impossible values; names the file and the key.
    """
    content, source = read_changed(path, changes)
    experiment: GeneratorExperiment = config_from_dict(GeneratorExperiment, content, source=source)
    return experiment


def open_generator(experiment: GeneratorExperiment, data: Path | None = None) -> tuple[GeneratorExperiment, Dataset]:
    """The codes that an experiment names, encoded first where it says so, and the experiment with their model.

    Args:
        experiment: of :func:`load_generator`.
        data: the folder of the datasets.

    Raises:
        ConfigError: codes that the experiment cannot be of.
        DapsError: errors of the codes.
    """
    with main_first():  # of processes that train together one encodes
        codes = open_codes(experiment.codes, data_folder(data) if experiment.codes.dataset else Path())
    model = GeneratorConfig(
        experiment.name,
        experiment.kind,
        TokenizerReference(codes.record["model"], codes.record["weights_sha256"]),
        codes.record["num_tokens"],
        codes.record["vocab_size"],
        experiment.network,
        codes.classes,
        **_told(experiment.codes),
        **experiment.defaults,
    )
    return dataclasses.replace(experiment, model=model), codes.split(experiment.validation_items)


def _told(codes: CodesConfig) -> dict[str, Any]:
    """What a generator of windows of clips is told, and that it reads code books."""
    if not codes.is_of_clips:
        return {}
    assert codes.tokenizer is not None  # checked by the config
    books = _code_books(codes.tokenizer)
    text, path, before = motion_conditions(books.shape[0])
    told = (text, path, before) if codes.dataset == "described" else (before,)
    return {"conditions": told, "book_size": books.shape[2]}


def _code_books(tokenizer: str) -> Tensor:
    """The standardised code books of a tokenizer, (N, V, D).

    Raises:
        ConfigError: it has none.
    """
    folder = open_model(tokenizer)
    with safe_open(folder.file("model.safetensors"), "pt") as weights:
        if _TABLE not in weights.keys():  # noqa: SIM118 - it is no mapping
            raise ConfigError(f"codes: {tokenizer} has no code books, which a generator of motion reads")
        return standardised_books(weights.get_tensor(_TABLE), folder.config.num_tokens)
