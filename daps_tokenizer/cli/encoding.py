"""How ``encode`` and ``reconstruct`` make codes of images and clips: their options, and what the codes cost."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import click
import numpy as np

from daps_tokenizer.backends.batching import encode_chunk, slices
from daps_tokenizer.backends.protocol import Backend
from daps_tokenizer.checks import check_number
from daps_tokenizer.cli.common import Progress
from daps_tokenizer.cli.media import Loaded, Said, media_of
from daps_tokenizer.cli.options import Command, add_options
from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.inputs import FitMode, InputOptions
from daps_tokenizer.neighbourhoods import Objective
from daps_tokenizer.search.base import draw_uniform
from daps_tokenizer.search.best_of import BestOf
from daps_tokenizer.search.local import LocalSearch, SearchResult
from daps_tokenizer.tokenizer import Tokenizer

_OBJECTIVES: dict[str, Objective] = {"log-likelihood": "log_likelihood", "squared-error": "squared_error"}
_ROUNDS = 16  # the progress bar moves after so many pieces for each that the backend encodes at once


class Gain(NamedTuple):
    """What a search gained over greedy codes in its objective, and what it took."""

    said: Said
    decodes: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.said.text} over greedy codes, {self.decodes} decodes, {self.seconds:.1f} s"


@dataclass(frozen=True)
class Encoded:
    """Codes of one item, and what is known of them.

    ``log_q`` (pieces, N) is log q(z|x) of each code in nats, None of a quantiser. After a search there are also the
    greedy codes, which it began with, and what it gained over them.
    """

    codes: Codes
    log_q: np.ndarray | None
    gain: Gain | None = None
    greedy: Codes | None = None

    @property
    def bits(self) -> str:
        """What the codes take, and how many bits of it surprise the recognition model."""
        return f"{self.codes.num_bits} bits" + (
            "" if self.log_q is None else f" (surprisal {self._surprisal:.1f} bits)"
        )

    @property
    def line(self) -> str:
        """How the line that is printed ends."""
        return f", {self.gain}" if self.gain else ""

    @property
    def record(self) -> dict[str, Any]:
        """The same for ``--json``."""
        record: dict[str, Any] = {"bits": self.codes.num_bits}
        if self.log_q is not None:
            record["surprisal_bits"] = self._surprisal
        if self.gain is not None:
            record["search"] = {
                **self.gain.said.record,
                "over": "greedy codes",
                "decodes": self.gain.decodes,
                "seconds": self.gain.seconds,
            }
        return record

    @property
    def _surprisal(self) -> float:
        assert self.log_q is not None
        return max(0.0, -float(self.log_q.sum(dtype=np.float64)) / math.log(2))


@dataclass(frozen=True)
class Encoding:
    """How images and clips become codes, as chosen by the options of ``encode`` and ``reconstruct``."""

    fit: FitMode | None = None
    search: int | None = None
    sweeps: int | None = None
    objective: str | None = None
    max_seconds: float | None = None
    best_of: int | None = None
    sample: bool = False
    temperature: float | None = None
    seed: int | None = None
    fps: float | None = None
    overlap: int | None = None
    clip: str | None = None

    def __post_init__(self) -> None:
        ways = {"--sample": self.sample, "--best-of": self.best_of is not None, "--search": self.search is not None}
        chosen = [name for name, is_chosen in ways.items() if is_chosen]
        if len(chosen) > 1:
            raise click.UsageError(f"{' and '.join(chosen)} exclude each other.")
        if chosen not in (["--sample"], ["--best-of"]):
            for name, value in (("--temperature", self.temperature), ("--seed", self.seed)):
                if value is not None:
                    raise click.UsageError(f"{name} needs --sample or --best-of; otherwise nothing is drawn.")
        if self.search is None:
            options = {"--sweeps": self.sweeps, "--objective": self.objective, "--max-seconds": self.max_seconds}
            for name, option in options.items():
                if option is not None:
                    raise click.UsageError(f"{name} needs --search; otherwise nothing is searched.")

    @property
    def inputs(self) -> InputOptions:
        """The options that say how inputs are brought to the model's size, of those that were given."""
        options: InputOptions = {}
        if self.fit is not None:
            options["fit"] = self.fit
        if self.fps is not None:
            options["fps"] = self.fps
        if self.overlap is not None:
            options["overlap"] = self.overlap
        return options

    def load(self, source: str, tokenizer: Tokenizer) -> Loaded:
        """What a source holds, for :meth:`encode`; errors as of :meth:`~daps_tokenizer.cli.media.Media.load`."""
        return media_of(tokenizer.modality).load(source, tokenizer, self.inputs, self.clip)

    def encode(self, tokenizer: Tokenizer, loaded: Loaded, progress: Progress) -> Encoded:
        """Codes (1, N) of what :meth:`load` gave; (1, pieces, N) of tiled images and of clips."""
        drawing = _Drawing(self, progress)
        codes = tokenizer.encode(loaded.inputs, search=drawing, **self.inputs)
        if drawing.result is None:
            return Encoded(codes, drawing.log_q)
        result = drawing.result
        greedy = dataclasses.replace(codes, values=result.greedy.reshape(codes.shape))
        if self.objective != "squared-error":
            said = Said.gain("log p", float(result.gain.sum()), "nats")
        else:
            said = media_of(tokenizer.modality).gain(tokenizer, loaded.targets, greedy, codes, result)
        return Encoded(codes, drawing.log_q, Gain(said, result.decodes, result.seconds), greedy)


class _Drawing:
    """The chosen way to encode as a search, which is given the pieces of the input: it keeps what it learns of them."""

    log_q: np.ndarray | None = None
    result: SearchResult | None = None

    def __init__(self, encoding: Encoding, on_progress: Progress) -> None:
        self._encoding, self._on_progress = encoding, on_progress

    def run(self, backend: Backend, inputs: np.ndarray, config: TokenizerConfig) -> np.ndarray:
        """Codes (B, N) int32."""
        chosen = self._encoding
        if chosen.search is not None:
            self.result = self._search(chosen.search).find(backend, inputs, config, on_progress=self._on_progress)
        elif chosen.best_of is not None:
            self.result = self._best_of(chosen.best_of, backend, inputs, config)
        else:
            return self._draw(backend, inputs, config)
        self.log_q = backend.score(inputs, self.result.codes, 1).log_probs
        return self.result.codes

    def _search(self, proposals: int) -> LocalSearch:
        chosen = self._encoding
        return LocalSearch(
            sweeps=chosen.sweeps or 1,
            proposals=proposals,
            objective=_OBJECTIVES[chosen.objective or "log-likelihood"],
            max_seconds=chosen.max_seconds,
        )

    def _best_of(self, candidates: int, backend: Backend, inputs: np.ndarray, config: TokenizerConfig) -> SearchResult:
        given = {"temperature": self._encoding.temperature, "seed": self._encoding.seed}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        started = time.perf_counter()
        codes = BestOf(candidates, **options).run(backend, inputs, config)
        seconds = time.perf_counter() - started
        greedy = backend.encode(inputs, np.zeros(codes.shape, np.float32), 0.0).codes
        after, before = (backend.likelihood(inputs, z).log_likelihood.sum(1, dtype=np.float64) for z in (codes, greedy))
        return SearchResult(greedy, codes, after - before, candidates, seconds)

    def _draw(self, backend: Backend, inputs: np.ndarray, config: TokenizerConfig) -> np.ndarray:
        """Greedy codes or a sample, some pieces at a time, so that a photograph in many tiles moves the bar."""
        temperature, shape = 0.0, (len(inputs), config.num_tokens)
        if self._encoding.sample:
            config.require_probabilities()
            temperature = 1.0 if self._encoding.temperature is None else self._encoding.temperature
            check_number("temperature", temperature)
            uniform = draw_uniform(shape, self._encoding.seed or 0)
        else:
            uniform = np.zeros(shape, np.float32)
        parts = []
        for part in slices(len(inputs), _ROUNDS * encode_chunk(config)):
            parts.append(backend.encode(inputs[part], uniform[part], temperature))
            self._on_progress(part.stop / len(inputs))
        if config.recognition.has_probabilities:
            self.log_q = np.concatenate([part.log_probs for part in parts])
        return np.concatenate([part.codes for part in parts])


def encoding_options(command: Command) -> Command:
    """Give a command the options that say how to encode, and hand them to it as ``encoding``."""
    names = [field.name for field in dataclasses.fields(Encoding)]

    @functools.wraps(command)
    def with_encoding(**options: Any) -> None:
        chosen = {name: options.pop(name) for name in names}
        command(encoding=Encoding(**chosen), **options)

    models = "The model: a built-in name, ./folder or org/name; without it, the built-in one for the kind of input."
    fits = "How an image of another size is fitted: tile cuts it into pieces, the others scale it; default: crop."
    fps = "The frames per second of a clip whose file does not say so; default: 30."
    overlap = "How many frames neighbouring windows of a clip share; default: 0."
    clip = "Which clip to take from an NPZ archive of many."
    search = "Improve the codes by local search with N proposals for each; 2 is a good start."
    sweeps = "How often the search visits every code; default: 1."
    objective = "What the search improves; default: log-likelihood."
    max_seconds = "Stop the search after this time and keep the best codes so far."
    best_of = "Draw N candidates and keep the one that explains the input best."
    temperature = "The temperature of what is drawn: below 1, it is less random; default: 1, with --best-of 0.5."
    options = [
        click.option("--model", help=models),
        click.option("--fit", type=click.Choice(get_args(FitMode)), help=fits),
        click.option("--fps", type=float, help=fps),
        click.option("--overlap", type=click.IntRange(min=0), metavar="N", help=overlap),
        click.option("--clip", metavar="NAME", help=clip),
        click.option("--search", type=click.IntRange(min=1), metavar="N", help=search),
        click.option("--sweeps", type=click.IntRange(min=1), metavar="N", help=sweeps),
        click.option("--objective", type=click.Choice(list(_OBJECTIVES)), help=objective),
        click.option("--max-seconds", type=click.FloatRange(min=0), help=max_seconds),
        click.option("--best-of", type=click.IntRange(min=1), metavar="N", help=best_of),
        click.option("--sample", is_flag=True, help="Draw the codes at random from q(z|x)."),
        click.option("--temperature", type=click.FloatRange(min=0), help=temperature),
        click.option("--seed", type=click.IntRange(min=0), help="The seed of what is drawn; default: 0."),
    ]
    return add_options(with_encoding, options)
