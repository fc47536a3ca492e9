"""How ``encode`` and ``reconstruct`` make codes of images and clips: their options, and what a search gained."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import click

from daps_tokenizer import BestOf, Codes, LocalSearch, Tokenizer
from daps_tokenizer.cli.common import Command, Progress, add_options
from daps_tokenizer.cli.media import Said, media_of
from daps_tokenizer.inputs import FitMode
from daps_tokenizer.ways import Sampled, Way, make_codes

_OBJECTIVES: dict[str, Literal["log_likelihood", "squared_error"]] = {
    "log-likelihood": "log_likelihood",
    "squared-error": "squared_error",
}


class Gain(NamedTuple):
    """What ``--search`` gained over greedy codes, and what it took."""

    said: Said
    decodes: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.said.text}, {self.decodes} decodes, {self.seconds:.1f} s"


class Encoded(NamedTuple):
    """Codes of one item; where they were searched for with ``--search``, also those it began with and the gain."""

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
        return {"search": {**self.gain.said.record, "decodes": self.gain.decodes, "seconds": self.gain.seconds}}


@dataclass(frozen=True)
class Encoding:
    """How images and clips become codes, as chosen by the options of ``encode`` and ``reconstruct``."""

    fit: FitMode | None
    search: int | None
    sweeps: int | None
    objective: str | None
    max_seconds: float | None
    best_of: int | None
    sample: bool
    temperature: float | None
    seed: int | None
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
    def inputs(self) -> dict[str, Any]:
        """The options that say how inputs are brought to the model's size, of those that were given."""
        options = {"fit": self.fit, "fps": self.fps, "overlap": self.overlap}
        return {name: value for name, value in options.items() if value is not None}

    @property
    def way(self) -> Way:
        """The way that was chosen."""
        temperature: dict[str, Any] = {} if self.temperature is None else {"temperature": self.temperature}
        if self.sample:
            return Sampled(**temperature)
        if self.best_of is not None:
            return BestOf(self.best_of, **temperature)
        if self.search is not None:
            return LocalSearch(
                sweeps=self.sweeps or 1,
                proposals=self.search,
                objective=_OBJECTIVES[self.objective or "log-likelihood"],
                max_seconds=self.max_seconds,
            )
        return None

    def load(self, source: str, tokenizer: Tokenizer) -> Any:
        """What a source holds, for :meth:`encode`; errors as of :meth:`~daps_tokenizer.cli.media.Media.load`."""
        return media_of(tokenizer.modality).load(source, tokenizer, self.inputs, self.clip)

    def encode(self, tokenizer: Tokenizer, loaded: Any, progress: Progress) -> Encoded:
        """Codes (1, N) of what :meth:`load` gave; (1, T, N) of tiled images and of clips."""
        made = make_codes(tokenizer, loaded, self.way, seed=self.seed or 0, on_progress=progress, **self.inputs)
        if self.search is None or made.result is None:
            return Encoded(made.codes)
        found, original = made.result, tokenizer.targets(loaded, **self.inputs)
        gain = media_of(tokenizer.modality).gain(
            original, tokenizer.decode(found.greedy), tokenizer.decode(found.codes)
        )
        return Encoded(found.codes, Gain(gain, found.decodes, found.seconds), found.greedy)


def encoding_options(command: Command) -> Command:
    """Give a command the options that say how to encode, and hand them to it as ``encoding``."""
    names = [field.name for field in dataclasses.fields(Encoding)]

    @functools.wraps(command)
    def with_encoding(**options: Any) -> None:
        chosen = {name: options.pop(name) for name in names}
        command(encoding=Encoding(**chosen), **options)

    fits = "How an image of another size is fitted: tile cuts it up, the others scale it; default: crop."
    models = "Built-in name, ./folder or org/name; default: the best built-in one for the kind of file."
    fps = "Frames per second of a clip that does not say so; default: 30."
    overlap = "Frames that neighbouring windows of a clip share; default: 0."
    clip = "Which clip of an NPZ archive of many."
    search = "Improve the codes, with N proposals for each; 2 is a good start."
    sweeps = "How often the search visits every code; default: 1."
    objective = "What the search improves; default: log-likelihood."
    best_of = "Draw N candidates and keep the one that explains the image best."
    options = [
        click.option("--model", help=models),
        click.option("--fit", type=click.Choice(get_args(FitMode)), help=fits),
        click.option("--fps", type=float, help=fps),
        click.option("--overlap", type=click.IntRange(min=0), metavar="N", help=overlap),
        click.option("--clip", metavar="NAME", help=clip),
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
