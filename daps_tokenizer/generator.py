"""Draws codes of a tokenizer: of a class, or from the uniform prior. Runs with ONNX Runtime, without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from daps_tokenizer.backends.batching import physical_cores, slices
from daps_tokenizer.backends.workers import Workers
from daps_tokenizer.checks import check_integer, check_number
from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.config.generator import MAX_GUIDANCE, MAX_STEPS, Condition, TokenizerReference
from daps_tokenizer.errors import CodesError, InputError, ModelFileError, UnsupportedError, first_line
from daps_tokenizer.hub import GeneratorFolder, open_generator
from daps_tokenizer.search.base import draw_uniform

if TYPE_CHECKING:
    from daps_tokenizer.tokenizer import Tokenizer

_NO_LOG = 4  # ONNX Runtime's level above errors
_CODES_AT_ONCE = 4096  # of one run of a graph: beyond it batches gain nothing, and memory grows


class Generator:
    """Draws codes that a tokenizer decodes; safe to use from several threads.

    >>> gen = Generator.from_pretrained("daps-mnist-causal")
    >>> codes = gen.sample("7", num_samples=4, seed=0)
    >>> codes
    Codes(shape=(4, 8), vocab_size=256, model='daps-mnist', 256 bits)
    >>> Tokenizer.from_pretrained("daps-mnist").decode(codes).shape
    (4, 28, 28, 1)
    """

    labels: tuple[str, ...]
    """The classes that can be asked for; none where the generator was trained without labels."""
    tokenizer: TokenizerReference
    """Name of the tokenizer that decodes the codes, and the sha256 of its weights."""
    conditions: tuple[Condition, ...]
    """What else it can be told, each with its name and how many numbers it is."""
    num_tokens: int
    """N, codes of an item."""
    vocab_size: int
    """V, values a code can take."""

    def __init__(self, folder: GeneratorFolder, *, num_threads: int | None = None) -> None:
        self.config = folder.config
        self.labels, self.tokenizer = self.config.labels, self.config.tokenizer
        self.conditions = self.config.conditions
        self.num_tokens, self.vocab_size = self.config.num_tokens, self.config.vocab_size
        self._graphs = _Graphs(folder, num_threads or physical_cores())

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        num_threads: int | None = None,
    ) -> Generator:
        """Load a generator by its built-in name, its folder, or its ``org/name`` on the Hugging Face Hub.

        Args:
            name_or_path: for example ``"daps-cifar10-flow"``, ``"./my-generator"`` or ``"org/name"``.
            revision, cache_dir, token, local_files_only: as for ``Tokenizer.from_pretrained``.
            num_threads: CPU threads; None takes all cores.

        Raises:
            ModelNotFoundError: no generator has that name, or it is a tokenizer.
            ModelFileError, ConfigError: a file of it is missing, damaged or not valid.
            HubError: the Hub cannot be reached, and nothing is cached.
        """
        if num_threads is not None:
            check_integer("num_threads", num_threads, least=1)
        folder = open_generator(
            name_or_path, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        return cls(folder, num_threads=num_threads)

    @staticmethod
    def uniform(tokenizer: Tokenizer) -> Generator:
        """The uniform prior over a tokenizer's codes: every code is as probable as any other.

        >>> Generator.uniform(tok).sample(num_samples=2, seed=0).shape
        (2, 64)
        """
        return _UniformGenerator(tokenizer)

    def __repr__(self) -> str:
        return f"Generator({self.name!r}, tokenizer={self.tokenizer.name!r}, labels={len(self.labels)})"

    @property
    def name(self) -> str:
        """The generator's name."""
        return self.config.name

    def sample(
        self,
        label: str | int | Sequence[str | int] | None = None,
        num_samples: int = 1,
        *,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        conditions: Mapping[str, np.ndarray] | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Codes:
        """Draw codes.

        Args:
            label: one of :attr:`labels`, or a list of them; None draws of any class.
            num_samples: S, how many items of each label.
            seed: the same number gives the same codes, on every runtime (up to near-ties of float arithmetic); None
                draws anew each time.
            steps: of a flow: more are slower and closer to its law. None takes the generator's own, as below.
            guidance: how far to move away from codes of any class, 0 for not at all; needs a label or a condition.
            temperature: what logits are divided by; below 1 draws what is more probable.
            conditions: what else the generator is told, by the names in ``config.conditions``: numbers (size,), or
                (items, size) with a row for each item that is drawn. One that is left out is not known. Descriptions
                and paths become such numbers in :func:`daps_tokenizer.motion.generation.sample_motion`.
            on_progress: is told what share of the items is drawn, in [0, 1].

        Returns:
            Codes (S, N); (labels · S, N) of a list, those of a label next to each other.

        Raises:
            InputError: no label in a list, one that is not known, guidance without anything to move towards, or an
                option that is out of range or not for this kind of generator.
        """
        check_integer("num_samples", num_samples, least=1)
        if seed is not None:
            check_integer("seed", seed, least=0)
        wanted = list(label) if isinstance(label, Sequence) and not isinstance(label, str) else [label]
        if not wanted:
            raise InputError("label: an empty list; expected at least one label, or None for codes of any class")
        known = [self._number(each) for each in wanted]
        given = _mapping(conditions)
        is_guided = label is not None or any(each.guided and each.name in given for each in self.conditions)
        weight = self.config.guidance if guidance is None else guidance
        check_number("guidance", weight, most=MAX_GUIDANCE)
        if guidance is not None and weight > 0 and not is_guided:
            raise InputError(f"guidance {weight:g} needs a label or a condition: there is nothing to move towards")
        temperature = self.config.temperature if temperature is None else temperature
        check_number("temperature", temperature)
        rows = (len(known) * num_samples, self.num_tokens)
        if self.config.kind == "flow":
            steps = self.config.steps if steps is None else steps
            check_integer("steps", steps, least=1, most=MAX_STEPS)
            uniform = draw_uniform((steps + 1, *rows), seed)
        elif steps is not None:
            raise InputError(f"steps are for generators of kind flow; {self.name} draws one code after the other")
        else:
            uniform = draw_uniform(rows, seed)
        numbers = np.repeat(known, num_samples)
        any_class = np.full_like(numbers, self.config.no_label)
        values = self._conditions(given, len(numbers))
        asked = np.stack([numbers, any_class]) if weight > 0 and is_guided else numbers[None]
        values = {name: np.stack([value] * len(asked)) for name, value in values.items()}
        if "known" in values:
            values["known"][1:, :, [number for number, each in enumerate(self.conditions) if each.guided]] = 0
        numbers_of_all = {"guidance": np.array(weight, np.float32), "temperature": np.array(temperature, np.float32)}
        parts = []
        for part in slices(len(numbers), max(1, _CODES_AT_ONCE // self.num_tokens)):
            noise = uniform[:, part] if self.config.kind == "flow" else uniform[part]
            feed = {"uniform": np.ascontiguousarray(noise), "labels": np.ascontiguousarray(asked[:, part])}
            told = {name: np.ascontiguousarray(value[:, part]) for name, value in values.items()}
            parts.append(self._graphs.run("generator", feed | told | numbers_of_all))
            if on_progress:
                on_progress(part.stop / len(numbers))
        return self._codes(np.concatenate(parts))

    def log_prob(
        self,
        codes: Codes | np.ndarray,
        label: str | int | Sequence[str | int] | None = None,
        *,
        conditions: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """log p(z | label, conditions) in nats, (B,) float64, of codes (B, N).

        Args:
            codes: Codes of the generator's tokenizer, or integers.
            label: of all items, or a list with one for each; None asks for log p(z) as learned without labels.
            conditions: as of :meth:`sample`.

        Raises:
            UnsupportedError: a flow, which has no probabilities of codes.
            CodesError: codes of another tokenizer, out of range, or of another length.
            InputError: a label that is not known, or not one for each item.
        """
        if self.config.kind != "causal":
            raise UnsupportedError(
                f"{self.name} is a flow, which has no probabilities of codes; a causal generator has"
            )
        values = self._check(codes)
        if isinstance(label, Sequence) and not isinstance(label, str):
            numbers = np.array([self._number(each) for each in label], np.int64)
            if len(numbers) != len(values):
                raise InputError(
                    f"{len(numbers)} labels for {len(values)} items; expected one for each, or a single one"
                )
        else:
            numbers = np.full(len(values), self._number(label), np.int64)
        told = self._conditions(conditions, len(values))
        if not len(values):
            return np.zeros(0)
        parts = [
            self._graphs.run(
                "scorer",
                {"codes": values[part], "labels": numbers[part]} | {name: each[part] for name, each in told.items()},
            )
            for part in slices(len(values), max(1, _CODES_AT_ONCE // self.num_tokens))
        ]
        log_p: np.ndarray = np.concatenate(parts).sum(axis=1, dtype=np.float64)
        return log_p

    def _conditions(self, given: Mapping[str, np.ndarray] | None, rows: int) -> dict[str, np.ndarray]:
        """Values (rows, size) of every condition, zeros where it is not given, and ``known`` (rows, conditions).

        Raises:
            InputError: one that the generator does not have, or values of another shape, or not finite, or no codes.
        """
        given = _mapping(given)
        names = [each.name for each in self.conditions]
        for name in given:
            if name not in names:
                known = f"conditions are {', '.join(names)}" if names else "it has no conditions"
                raise InputError(f"condition {name!r} is not known to {self.name}; {known}")
        values = {each.name: self._values(each, given.get(each.name), rows) for each in self.conditions}
        if values:
            values["known"] = np.tile(np.array([name in given for name in names], np.float32), (rows, 1))
        return values

    def _values(self, condition: Condition, value: np.ndarray | None, rows: int) -> np.ndarray:
        kind, size = np.int64 if condition.codes else np.float32, condition.size
        if value is None:
            return np.zeros((rows, size), kind)
        array = np.asarray(value)
        if array.shape not in ((size,), (rows, size)):
            raise InputError(
                f"condition {condition.name}: numbers of shape {array.shape}; expected ({size},) or ({rows}, {size})"
            )
        if condition.codes:
            if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= self.vocab_size:
                raise InputError(
                    f"condition {condition.name}: expected codes, integers from 0 to {self.vocab_size - 1}"
                )
        elif array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise InputError(f"condition {condition.name}: expected finite numbers")
        return np.ascontiguousarray(np.broadcast_to(array, (rows, size)).astype(kind))

    def _number(self, label: object) -> int:
        if label is None:
            return len(self.labels)
        name = str(label)
        if name not in self.labels:
            known = f"; labels are {', '.join(self.labels)}" if self.labels else ", which was trained without labels"
            raise InputError(f"label {name!r} is not known to {self.name}{known}")
        return self.labels.index(name)

    def _codes(self, values: np.ndarray) -> Codes:
        return Codes(values, self.vocab_size, self.tokenizer.name, self.tokenizer.weights_sha256)

    def _check(self, codes: Codes | np.ndarray) -> np.ndarray:
        """Values (B, N) int32 of codes of the generator's tokenizer; errors as of :meth:`log_prob`."""
        own = self.tokenizer
        if isinstance(codes, Codes):
            if codes.weights_sha256 not in ("", own.weights_sha256):
                raise CodesError(
                    f"codes were made by {codes.model} (weights {codes.weights_sha256[:12]}); {self.name} is for codes "
                    f"of {own.name} (weights {own.weights_sha256[:12]})"
                )
            checked = codes
        else:
            checked = self._codes(codes)
        if checked.vocab_size != self.vocab_size or len(checked.shape) != 2 or checked.shape[1] != self.num_tokens:
            raise CodesError(
                f"codes have shape {checked.shape} out of {checked.vocab_size}; {self.name} takes "
                f"(items, {self.num_tokens}) out of {self.vocab_size}"
            )
        return checked.numpy()


class _UniformGenerator(Generator):
    """The uniform prior; has no labels and no files."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.labels, self.conditions = (), ()
        self.tokenizer = TokenizerReference(tokenizer.config.name, tokenizer.config.weights_sha256)
        self.num_tokens, self.vocab_size = tokenizer.num_tokens, tokenizer.vocab_size

    @property
    def name(self) -> str:
        return "uniform"

    def sample(
        self,
        label: str | int | Sequence[str | int] | None = None,
        num_samples: int = 1,
        *,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        conditions: Mapping[str, np.ndarray] | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Codes:
        check_integer("num_samples", num_samples, least=1)
        options = {"label": label, "steps": steps, "guidance": guidance, "temperature": temperature}
        for name, value in (options | {"conditions": conditions}).items():
            if value is not None:
                raise InputError(f"the uniform prior has no {name}")
        uniform = draw_uniform((num_samples, self.num_tokens), seed)
        return self._codes((uniform * self.vocab_size).astype(np.int32))

    def log_prob(
        self,
        codes: Codes | np.ndarray,
        label: str | int | Sequence[str | int] | None = None,
        *,
        conditions: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        for name, value in (("label", label), ("conditions", conditions)):
            if value is not None:
                raise InputError(f"the uniform prior has no {name}")
        return np.full(len(self._check(codes)), -self.num_tokens * math.log(self.vocab_size))


class _Graphs:
    """The graphs of a generator, each loaded when it is first run."""

    def __init__(self, folder: GeneratorFolder, num_threads: int) -> None:
        self._folder, self._num_threads = folder, num_threads
        self._workers = Workers(1)  # in whose thread floats too small to be normal are zero
        self._sessions: dict[str, Any] = {}

    def run(self, graph: str, feed: dict[str, np.ndarray]) -> np.ndarray:
        """The only output of a graph; Ctrl-C ends the run, which takes seconds."""
        options = onnxruntime.RunOptions()
        options.log_severity_level = _NO_LOG  # what fails is raised

        def run() -> np.ndarray:
            if graph not in self._sessions:
                self._sessions[graph] = self._load(graph)
            output: np.ndarray = self._sessions[graph].run(None, feed, options)[0]
            return output

        try:
            return self._workers.run(run)
        except KeyboardInterrupt:
            options.terminate = True
            raise

    def _load(self, graph: str) -> Any:
        path = self._folder.file(f"{graph}.onnx")
        self._folder.file("model.safetensors")  # next to the graph, which refers to it
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = self._num_threads, 1, 3
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        try:
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has its own exception types, all of them derived from this one
            raise ModelFileError(
                f"{path}: ONNX Runtime cannot load it ({first_line(error)}); export the generator again"
            ) from error


def _mapping(conditions: Mapping[str, np.ndarray] | None) -> Mapping[str, np.ndarray]:
    if conditions is not None and not isinstance(conditions, Mapping):
        raise InputError(f"conditions must be a mapping of names to values, not {type(conditions).__name__}")
    return conditions or {}
