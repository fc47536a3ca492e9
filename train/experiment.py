"""One experiment, one YAML file: the model, the data, the method and the schedule, checked before anything runs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from daps_tokenizer.config import TokenizerConfig, config_from_dict
from daps_tokenizer.config.checks import require_choice
from daps_tokenizer.data.place import data_folder, default_folder
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights
from daps_tokenizer.motion.features import FPS
from daps_tokenizer.motion.robots import robot_of
from train.checkpoint import load_checkpoint, read_config
from train.dashboard import CURVES, draw_dashboard, pictures_of
from train.data import Dataset, DatasetKind, load_dataset
from train.evaluate import evaluate
from train.items import Items
from train.methods import Method, build_method, method_settings
from train.motion import MotionAugmentation
from train.optimisation import OptimiserConfig, build_optimiser
from train.photos import PhotosConfig
from train.widen import is_smaller, load_widened

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Experiment:
    """Everything a run depends on.

    Args:
        name: the run's folder under ``runs/``.
        model: a ``TokenizerConfig``; in YAML also the path of a file that holds one, relative to the experiment's.
        dataset: which data the model is trained and evaluated on; ``data`` says more about ``photos``, and ``motion``
            which clips dataset ``motion`` has and how they are augmented.
        method: a name in ``train.methods``; ``settings`` are that method's own.
        start_from: a checkpoint folder whose weights the run starts from.
        aligned: whether an autoregressive recognition model begins with weights that let it read the input where a code
            belongs (``train/alignment.py``), of a run that starts from nothing.
        precision: ``bf16`` runs matrix products in bfloat16 (autocast); weights and logits stay float32.
        validation_items: training items that are held out, the same for every run on this data. A run is then evaluated
            on them, and its test items are read by ``python -m train evaluate`` alone. 0 evaluates on test items.
        evaluate_every: steps between evaluations on ``evaluation_items`` of these items, spread evenly over them.
    """

    name: str
    model: TokenizerConfig
    dataset: DatasetKind
    method: str
    steps: int
    batch_size: int
    data: PhotosConfig | None = None
    motion: MotionAugmentation | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    start_from: str | None = None
    aligned: bool = False
    precision: Precision = "fp32"
    seed: int = 0
    log_every: int = 50
    validation_items: int = 0
    evaluate_every: int = 1000
    evaluation_items: int = 1000
    checkpoint_every: int = 1000

    status: ClassVar[tuple[str, str]] = ("log p", "log_p")  # what the progress bar shows: a title and a metric

    def __post_init__(self) -> None:
        require_choice("dataset", self.dataset, DatasetKind)
        require_choice("precision", self.precision, Precision)
        method_settings(self.method, self.settings)
        check_counts(self)
        if (self.dataset == "photos") != (self.data is not None):
            raise ConfigError(
                "data says which photographs to use: it goes with dataset photos, and dataset photos with it"
            )
        if self.data is not None:
            self.data.check_fit(self.model.input_shape, self.batch_size)
        if self.aligned and self.start_from is not None:
            raise ConfigError("aligned says how weights begin, so it does not go with start_from")
        if self.motion is not None and self.dataset != "motion":
            raise ConfigError(f"motion says how clips are augmented: it goes with dataset motion, not {self.dataset}")
        schema = self.model.motion
        if self.dataset == "motion" and schema is not None and schema.fps != FPS:
            raise ConfigError(f"dataset motion has {FPS:g} frames per second; set motion.fps to it, not {schema.fps:g}")

    def build_model(self) -> Autoencoder:
        return Autoencoder(self.model)

    def build_method(self, model: Autoencoder) -> Method:
        return build_method(self.method, model, self.settings)

    def trained(self, run_folder: Path) -> Method:
        """The method with what its last checkpoint holds; errors of :func:`train.checkpoint.load_checkpoint`."""
        method = self.build_method(self.build_model())
        load_checkpoint(run_folder / "checkpoint", method, build_optimiser(method, self.optimiser))
        return method

    def load_start(self, model: Autoencoder, source: Path) -> None:
        """Take the weights of a checkpoint or model folder, which may be of a smaller model."""
        load_source = load_widened if is_smaller(read_config(source), model.config) else load_weights
        load_source(model, source / "model.safetensors")

    def evaluate(self, method: Method, items: Items) -> dict[str, float]:
        return evaluate(method, items, limit=self.evaluation_items)

    def draw(self, path: Path, metrics_file: Path, method: Method, items: Items) -> None:
        """The dashboard: curves, and reconstructions of the first items."""
        draw_dashboard(path, metrics_file, CURVES, pictures_of(method, items))


def check_counts(experiment: Any) -> None:
    """Refuse settings that count something and are too small.

    Raises:
        ConfigError: naming the setting.
    """
    for name in ("steps", "batch_size", "log_every", "evaluate_every", "evaluation_items", "checkpoint_every"):
        if getattr(experiment, name) < 1:
            raise ConfigError(f"{name} must be at least 1, not {getattr(experiment, name)}")
    if experiment.validation_items < 0:
        raise ConfigError(f"validation_items must be at least 0, not {experiment.validation_items}")


def open_dataset(experiment: Experiment, folder: Path | None = None) -> Dataset:
    """The data that an experiment trains and is tested on.

    Args:
        experiment: says which.
        folder: where datasets are; see :func:`daps_tokenizer.data.place.data_folder`. Photographs are also looked for
            in the current folder, so they need none.

    Raises:
        InputError, ConfigError: see :func:`train.data.load_dataset`.
    """
    return load_dataset(
        experiment.dataset,
        folder or default_folder() if experiment.dataset == "photos" else data_folder(folder),
        photos=experiment.data,
        motion=experiment.motion,
        input_shape=experiment.model.input_shape,
        validation_items=experiment.validation_items,
        robot=robot_of(experiment.model),
    )


def load_experiment(path: Path, changes: Sequence[str] = ()) -> Experiment:
    """Read an experiment's YAML file.

    Args:
        path: the file.
        changes: settings in place of the file's, as ``steps=100`` or ``optimiser.learning_rate=1e-3``.

    Raises:
        ConfigError: missing file, not YAML, unknown or missing keys, impossible values; names the file and the key.
    """
    content, source = read_changed(path, changes)
    return config_from_dict(Experiment, content, source=source)


def read_changed(path: Path, changes: Sequence[str]) -> tuple[Any, str]:
    """The content of a YAML file with changes, and what messages call it; arguments as of :func:`load_experiment`.

    Raises:
        ConfigError: a file is missing or not YAML, or a change cannot be made.
    """
    content = read_with_model(path)
    for change in changes:
        _apply(change, content)
    return content, " ".join([str(path), *(f"--set {one}" for one in changes)])


def _apply(change: str, content: Any) -> None:
    """Put ``KEY=VALUE`` into nested mappings; dots lead into them, and a mapping that is not there is made."""
    key, separator, text = change.partition("=")
    if not separator or not all(key.split(".")):
        raise ConfigError(f"--set {change}: expected KEY=VALUE, as steps=100 or optimiser.learning_rate=1e-3")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {change}: the value is not valid YAML") from None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)  # YAML takes 1e-3 for text
    *parents, last = key.split(".")
    place = content
    for parent in parents:
        if isinstance(place, dict) and place.get(parent) is None:
            place[parent] = {}
        place = place.get(parent) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise ConfigError(f"--set {change}: {'.'.join(parents) or 'the file'} holds no settings of its own")
    place[last] = value


def read_with_model(path: Path) -> Any:
    """The content of a YAML file, and in place of the path at ``model`` what the file there holds.

    Raises:
        ConfigError: a file is missing, or not YAML.
    """
    content = read_yaml(path)
    if isinstance(content, dict) and isinstance(content.get("model"), str):
        where = f"a model in YAML, its path relative to the folder of {path.name}"
        content["model"] = read_yaml(path.parent / content["model"], expected=where)
    return content


def read_yaml(path: Path, *, expected: str = "an experiment in YAML") -> Any:
    """The content of a YAML file.

    Raises:
        ConfigError: missing file, or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected {expected}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected {expected}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
