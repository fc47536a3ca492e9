"""How ``encode`` and ``reconstruct`` make codes of images: their options, and what a search gained."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import click
import numpy as np

from daps_tokenizer import BestOf, Codes, LocalSearch, Tokenizer
from daps_tokenizer.backends import Backend
from daps_tokenizer.cli_common import DEFAULT_MODEL, Command, Progress, add_options
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.inputs import FitMode
from daps_tokenizer.local_search import SearchResult
from daps_tokenizer.metrics import psnr

_OBJECTIVES: dict[str, Literal["log_likelihood", "squared_error"]] = {
    "log-likelihood": "log_likelihood",
    "squared-error": "squared_error",
}


class Gain(NamedTuple):
    """What ``--search`` gained over greedy codes, in dB of PSNR, and what it took."""

    decibels: float
    decodes: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.decibels:+.2f} dB, {self.decodes} decodes, {self.seconds:.1f} s"


class Encoded(NamedTuple):
    """Codes of one image; where they were searched for with ``--search``, also those it began with and the gain."""

    codes: Codes
    gain: Gain | None = None
    greedy: Codes | None = None

    @property
    def line(self) -> str:
        """How the line that is printed ends."""
        return f", {self.gain}" if self.gain else ""

    @property
    def record(self) -> dict[str, Any]:
        """The same for ``--json``."""
        if self.gain is None:
            return {}
        decibels = self.gain.decibels if math.isfinite(self.gain.decibels) else None  # JSON has no infinity
        return {"search": {**self.gain._asdict(), "decibels": decibels}}


class _Remembering:
    """A local search that keeps its result, beyond the codes that a search is asked for."""

    result: SearchResult

    def __init__(self, search: LocalSearch, on_progress: Progress) -> None:
        self._search, self._on_progress = search, on_progress

    def run(self, backend: Backend, inputs: np.ndarray, config: TokenizerConfig) -> np.ndarray:
        self.result = self._search.find(backend, inputs, config, on_progress=self._on_progress)
        return self.result.codes


@dataclass(frozen=True)
class Encoding:
    """How images become codes, as chosen by the options of ``encode`` and ``reconstruct``."""

    fit: FitMode
    search: int | None
    sweeps: int | None
    objective: str | None
    max_seconds: float | None
    best_of: int | None
    sample: bool
    temperature: float | None
    seed: int | None

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

    def encode(self, tokenizer: Tokenizer, images: np.ndarray, progress: Progress) -> Encoded:
        """Codes (1, N) of one image (1, H, W, C) uint8 as :meth:`Tokenizer.prepare` gives it, or (1, T, N) if tiled."""
        if self.search is not None:
            return self._search(self.search, tokenizer, images, progress)
        chosen = {"temperature": self.temperature, "seed": self.seed}
        given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        if self.sample:
            return Encoded(tokenizer.sample(images, fit=self.fit, **given)[:, 0])
        search = None if self.best_of is None else BestOf(self.best_of, **given)
        return Encoded(tokenizer.encode(images, fit=self.fit, search=search))

    def _search(self, proposals: int, tokenizer: Tokenizer, images: np.ndarray, progress: Progress) -> Encoded:
        search = LocalSearch(
            sweeps=self.sweeps or 1,
            proposals=proposals,
            objective=_OBJECTIVES[self.objective or "log-likelihood"],
            max_seconds=self.max_seconds,
        )
        remembering = _Remembering(search, progress)
        codes = tokenizer.encode(images, fit=self.fit, search=remembering)
        result = remembering.result
        greedy = dataclasses.replace(codes, values=result.greedy.reshape(codes.shape))
        before, after = (float(psnr(images, tokenizer.decode(each))[0]) for each in (greedy, codes))
        decibels = 0.0 if before == after else after - before  # both may be infinite
        return Encoded(codes, Gain(decibels, result.decodes, result.seconds), greedy)


def encoding_options(command: Command) -> Command:
    """Give a command the options that say how to encode, and hand them to it as ``encoding``."""
    names = [field.name for field in dataclasses.fields(Encoding)]

    @functools.wraps(command)
    def with_encoding(**options: Any) -> None:
        chosen = {name: options.pop(name) for name in names}
        command(encoding=Encoding(**chosen), **options)

    fits = "How an image of another size is fitted: tile cuts it up, the others scale it."
    search = "Improve the codes, with N proposals for each; 2 is a good start."
    sweeps = "How often the search visits every code; default: 1."
    objective = "What the search improves; default: log-likelihood."
    best_of = "Draw N candidates and keep the one that explains the image best."
    options = [
        click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Built-in name, ./folder or org/name."),
        click.option("--fit", type=click.Choice(get_args(FitMode)), default="crop", show_default=True, help=fits),
        click.option("--search", type=click.IntRange(min=1), metavar="N", help=search),
        click.option("--sweeps", type=click.IntRange(min=1), metavar="N", help=sweeps),
        click.option("--objective", type=click.Choice(list(_OBJECTIVES)), help=objective),
        click.option("--max-seconds", type=click.FloatRange(min=0), help="Stop the search after this time."),
        click.option("--best-of", type=click.IntRange(min=1), metavar="N", help=best_of),
        click.option("--sample", is_flag=True, help="Draw the codes at random, from q(z|x)."),
        click.option("--temperature", type=click.FloatRange(min=0), help="Of the draw; below 1 it is less random."),
        click.option("--seed", type=click.IntRange(min=0), help="Of the draw; default: 0."),
    ]
    return add_options(with_encoding, options)
