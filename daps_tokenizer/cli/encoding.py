"""How ``encode`` and ``reconstruct`` make codes of images and clips: their options, and what the codes cost."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import click
import numpy as np

from daps_tokenizer.backends.batching import encode_chunk
from daps_tokenizer.backends.protocol import Backend, Encoded
from daps_tokenizer.backends.tiled import encode_in_parts
from daps_tokenizer.checks import check_number
from daps_tokenizer.cli.common import Progress
from daps_tokenizer.cli.media import Loaded, Said, media_of
from daps_tokenizer.cli.options import Command, add_options
from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.inputs import FitMode
from daps_tokenizer.neighbourhoods import Objective
from daps_tokenizer.search.base import Found, draw_uniform
from daps_tokenizer.search.best_of import BestOf
from daps_tokenizer.search.local import LocalSearch
from daps_tokenizer.tokenizer import Tokenizer
from daps_tokenizer.ways import Sampled, Way

_OBJECTIVES: dict[str, Objective] = {"log-likelihood": "log_likelihood", "squared-error": "squared_error"}
_ROUNDS = 16  # the progress bar moves after this many chunks of the backend


class Gain(NamedTuple):
    """What a search gained over greedy codes in its objective, and what it took."""

    said: Said
    decodes: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.said.text} over greedy codes, {self.decodes} decodes, {self.seconds:.1f} s"


@dataclass(frozen=True)
class EncodedItem:
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
        surprisal = "" if self.log_q is None else f" (surprisal {self._surprisal:,.1f} bits)"
        return f"{self.codes.num_bits:,} bits{surprisal}"

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
                    raise click.UsageError(f"{name} needs --sample or --best-of; without them nothing is random.")
        if self.search is None:
            options = {"--sweeps": self.sweeps, "--objective": self.objective, "--max-seconds": self.max_seconds}
            for name, option in options.items():
                if option is not None:
                    raise click.UsageError(f"{name} needs --search.")

    @property
    def inputs(self) -> dict[str, Any]:
        """The options that say how inputs are brought to the model's size, of those that were given."""
        options = {"fit": self.fit, "fps": self.fps, "overlap": self.overlap}
        return {name: value for name, value in options.items() if value is not None}

    @property
    def way(self) -> Way:
        temperature: dict[str, Any] = {} if self.temperature is None else {"temperature": self.temperature}
        if self.sample:
            return Sampled(**temperature)
        if self.best_of is not None:
            return BestOf(self.best_of, **temperature, seed=self.seed or 0)
        if self.search is not None:
            return LocalSearch(
                sweeps=self.sweeps or 1,
                proposals=self.search,
                objective=_OBJECTIVES[self.objective or "log-likelihood"],
                max_seconds=self.max_seconds,
            )
        return None

    def load(self, source: str, tokenizer: Tokenizer) -> Loaded:
        """What a source holds, for :meth:`encode`; errors as of :meth:`~daps_tokenizer.cli.media.Media.load`."""
        return media_of(tokenizer.modality).load(source, tokenizer, self.inputs, self.clip)

    def encode(self, tokenizer: Tokenizer, loaded: Loaded, progress: Progress) -> EncodedItem:
        """Codes (1, N) of what :meth:`load` gave; (1, pieces, N) of tiled images and of clips."""
        watched = _Watched(self.way, self.seed or 0)
        result = tokenizer.search(loaded.inputs, watched, on_progress=progress, **self.inputs)
        if self.search is None and self.best_of is None:
            return EncodedItem(result.codes, watched.log_q)
        if self.objective == "squared-error":
            said = media_of(tokenizer.modality).gain(tokenizer, loaded.targets, result)
        else:
            said = Said.gain("log p", float(result.gain.sum()), "nats")
        return EncodedItem(result.codes, watched.log_q, Gain(said, result.decodes, result.seconds), result.greedy)


class _Watched:
    """A way to encode, as a search: it is given the pieces of the input, and keeps log q of each code (pieces, N).

    Codes that are not searched for are drawn some pieces at a time, so that a photograph in many tiles moves the bar.
    """

    log_q: np.ndarray | None = None

    def __init__(self, way: Way, seed: int) -> None:
        self._way, self._seed = way, seed

    def find(
        self,
        backend: Backend,
        inputs: np.ndarray,
        config: TokenizerConfig,
        *,
        on_progress: Callable[[float], None] | None = None,
    ) -> Found:
        """Codes (B, N) int32 for inputs (B, *input_shape)."""
        if self._way is None or isinstance(self._way, Sampled):
            codes = self._draw(self._way, backend, inputs, config, on_progress or (lambda share: None))
            return Found(codes, codes, np.zeros(len(codes)), 0, 0.0)
        found = self._way.find(backend, inputs, config, on_progress=on_progress)
        self.log_q = backend.score(inputs, found.codes, 1).log_probs
        return found

    def _draw(
        self,
        way: Sampled | None,
        backend: Backend,
        inputs: np.ndarray,
        config: TokenizerConfig,
        on_progress: Callable[[float], None],
    ) -> np.ndarray:
        temperature, uniform = 0.0, np.zeros((len(inputs), config.num_tokens), np.float32)
        if way is not None:
            config.require_probabilities()
            check_number("temperature", way.temperature)
            temperature, uniform = float(way.temperature), draw_uniform(uniform.shape, self._seed)
        parts, done = list[Encoded](), 0
        for part in encode_in_parts(backend, inputs, uniform, temperature, _ROUNDS * encode_chunk(config)):
            parts.append(part)
            done += len(part.codes)
            on_progress(done / len(inputs))
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
    fits = "How an image of another size is fitted: tile cuts it into tiles, the others scale it; default: crop."
    fps = "The frame rate of a clip whose file does not give one; default: 30."
    overlap = "How many frames neighbouring windows of a clip share; default: 0."
    clip = "Which clip to take from an NPZ archive of many."
    search = "Improve the codes by local search with N proposals for each; 2 is a good start."
    sweeps = "How often the search visits every code; default: 1."
    objective = "What the search improves; default: log-likelihood."
    max_seconds = "Stop the search after this time and keep the best codes so far."
    best_of = "Draw N candidates and keep the one that explains the input best."
    temperature = "The temperature of sampling: below 1 is less random; default: 1, or 0.5 with --best-of."
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
        click.option("--seed", type=click.IntRange(min=0), help="The random seed; default: 0."),
    ]
    return add_options(with_encoding, options)
