"""``python -m benchmarks figures``: the numbers in README and docs come from results, and cannot drift from them.

Two kinds of marks, both invisible where Markdown is rendered:

- ``<!-- figure NAME FORMAT -->24.10<!-- end -->`` holds one number;
- ``<!-- figures BLOCK ARGUMENTS -->`` … ``<!-- end -->``, each on a line of its own, hold a table or a line.

A NAME is ``MODEL:WAY:METRIC`` (``daps-photo-256:greedy:psnr``; greedy and sampled codes are of the model's own card,
searched ones of its ``quality_MODEL.json``), ``MODEL:authors`` (nats that a reconstruction has less in the
normalisation of the paper's authors), or ``FILE/KEY/KEY…`` in a result, where a list takes ``key=value``. ``A - B`` is
a difference. FORMAT is Python's. The blocks are the functions in :data:`BLOCKS`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks.inputs import ROOT
from benchmarks.reports import RESULTS, STUDIES, short, table
from daps_tokenizer.errors import InputError
from daps_tokenizer.hub import built_in_models, open_model
from export.paper import PAPER_LOG_P, dataset_of, nats_less_in_the_papers_units

_FIGURE = re.compile(r"(<!-- figure ((?:[^-]|-(?!->))+) (\S+) -->)(.*?)(<!-- end -->)")
_BLOCK = re.compile(r"^(<!-- figures (\S+)((?: \S+)*?) -->\n)(.*?)(^<!-- end -->)$", re.DOTALL | re.MULTILINE)


def pages() -> list[Path]:
    """Every page that may hold marks."""
    return [ROOT / "README.md", RESULTS / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fill(text: str) -> str:
    """A page with the present numbers in its marks.

    Raises:
        InputError: a mark that names nothing.
    """
    text = _BLOCK.sub(lambda found: f"{found[1]}{_block(found[2], found[3])}\n{found[5]}", text)
    return _FIGURE.sub(lambda found: f"{found[1]}{number(figure(found[2]), found[3])}{found[5]}", text)


def _block(name: str, arguments: str) -> str:
    if name not in BLOCKS:
        raise InputError(f"no block {name!r}; there are {', '.join(BLOCKS)}")
    return BLOCKS[name](*[argument.strip() for argument in arguments.split(";") if argument.strip()])


def figure(name: str) -> float:
    """The number that a mark names.

    Raises:
        InputError: it names nothing.
    """
    first, *others = name.split(" - ")
    return _one(first) - sum(_one(other) for other in others)


def _one(name: str) -> float:
    if "/" not in name:
        model, *rest = name.split(":")
        if rest == ["authors"]:
            return less_in_authors_units(model)
        if len(rest) != 2:
            raise InputError(f"{name!r} is not MODEL:WAY:METRIC, MODEL:authors or FILE/KEY")
        return of_model(model, *rest)
    file, *keys = name.split("/")
    found: Any = result(file)
    for key in keys:
        if isinstance(found, list):
            field, _, value = key.partition("=")
            found = next((item for item in found if str(item.get(field)) == value), None)
        else:
            found = found.get(key) if isinstance(found, dict) else None
        if found is None:
            raise InputError(f"{name}: {file}.json has no {key!r} there")
    return float(found)


def result(name: str) -> dict[str, Any]:
    """The content of ``NAME.json``.

    Raises:
        InputError: there is no such result.
    """
    content: dict[str, Any] = json.loads(result_path(name).read_text(encoding="utf-8"))
    return content


def result_path(name: str) -> Path:
    """Where ``NAME.json`` is: among the results, or among those of the studies.

    Raises:
        InputError: in neither.
    """
    for folder in (RESULTS, STUDIES):
        if (folder / f"{name}.json").is_file():
            return folder / f"{name}.json"
    raise InputError(f"no {name}.json in benchmarks/results or benchmarks/results/studies")


def of_model(model: str, way: str, metric: str) -> float:
    """A mean over the test set: of greedy and sampled codes from the model's card, else from its quality report.

    Raises:
        InputError: not measured.
    """
    own = open_model(model).config.training.get("evaluation", {}).get(f"{way}_{metric}")
    if own is not None:
        return float(own)
    found = result(f"quality_{model}")["results"][model].get(way, {}).get(metric)
    if found is None:
        raise InputError(f"{model}: {metric} of {way} codes is not in its card, nor in quality_{model}.json")
    return float(found["mean"])


def less_in_authors_units(model: str) -> float:
    """Nats that log p of one item is less in the authors' normalisation."""
    return nats_less_in_the_papers_units(open_model(model).config)


def number(value: float, form: str) -> str:
    """A number as text, with a minus sign that is one."""
    return format(round(value) if form.endswith("d") else value, form).replace("-", "−")


def _dataset(model: str) -> str:
    return dataset_of(open_model(model).config)


def _digits(model: str) -> str:
    return ",.0f" if _dataset(model) == "photos" else ",.1f"


def _models() -> list[str]:
    return sorted(built_in_models(), key=lambda model: -open_model(model).config.bits_per_item)


_INPUTS = {"photos": "256×256 RGB", "cifar10": "32×32 RGB", "mnist": "28×28 black and white", "motion": "32 frames"}
_SQUARED_ERROR = "local search, squared error"


def models_block() -> str:
    """The built-in models: one number a cell."""
    header = ("model", "input", "codes", "bytes", "log p, sampled", "log p, greedy", "PSNR, greedy", "PSNR, searched")
    rows = []
    for model in _models():
        config, dataset = open_model(model).config, _dataset(model)
        decibels = ["–", "–"]
        if config.modality == "image":
            decibels = [number(of_model(model, way, "psnr"), ".2f") for way in ("greedy", _SQUARED_ERROR)]
        rows.append(
            (
                f"`{model}`",
                _INPUTS[dataset],
                f"{config.num_tokens:,} of {config.vocab_size:,}",
                f"{math.ceil(config.bits_per_item / 8):,}",
                *(number(of_model(model, way, "log_p"), _digits(model)) for way in ("sampled", "greedy")),
                *decibels,
            )
        )
    searched = [result(f"quality_{model}") for model in _models() if open_model(model).config.modality == "image"]
    sizes = "; ".join(f"{found['items']:,} items of {found['data']}" for found in searched)
    return table(header, rows) + f'\n\nSearched (`LocalSearch(objective="squared_error")`): {sizes}.'


def paper_block(*models: str) -> str:
    """log p and that of the paper's DAPS, in our units and in the authors' where they are known to differ."""
    rows = []
    for model in models or [model for model in _models() if model != "daps-g1-motion"]:  # of which the paper has none
        dataset, digits = _dataset(model), _digits(model)
        less = less_in_authors_units(model)
        greedy, sampled = (of_model(model, way, "log_p") for way in ("greedy", "sampled"))
        comparable = ["–", "–"] if dataset == "motion" else [number(v - less, digits) for v in (greedy, sampled)]
        rows.append((f"`{model}`", number(greedy, digits), *comparable, number(PAPER_LOG_P[dataset], ",.8g")))
    header = ("log p, nats", "greedy", "greedy, authors' units", "sampled, authors' units", "the paper's DAPS, sampled")
    return table(header, rows)


def latency_block() -> str:
    """Milliseconds of one item on one thread in ONNX Runtime, and of encoding in PyTorch."""
    rows = result("latency")["rows"]

    def milliseconds(model: str, action: str, backend: str) -> str:
        identity = {"model": model, "action": action, "backend": backend, "batch": 1, "threads": 1, "device": "cpu"}
        row = next((row for row in rows if identity.items() <= row.items()), None)
        return "not measured" if row is None else f"{short(float(row['median_ms']))} ms"

    found = [
        (
            f"`{model}`",
            *(milliseconds(model, *what) for what in (("encode", "onnx"), ("encode", "torch"), ("decode", "onnx"))),
        )
        for model in _models()
    ]
    return table(("one item, one thread", "encode", "encode in PyTorch", "decode"), found)


def quality_block(model: str, *ways: str) -> str:
    """log p, PSNR and SSIM of ways to encode, and of a codec that always fits."""
    forms = {"log_p": _digits(model), "psnr": ".2f", "ssim": ".3f"}
    rows = []
    for way in ways:
        values = [number(of_model(model, way, metric), form) for metric, form in forms.items()]
        rows.append((_WAYS.get(way, way), *values))
    report = result(f"quality_{model}")
    for name, found in report.get("codecs", {}).items():
        if found["fit"] == report["items"]:
            codec = f"{name}, at most {report['max_bytes']:,} bytes"
            rows.append((codec, "", f"{found['psnr']['mean']:.2f}", f"{found['ssim']['mean']:.3f}"))
    return table(("codes", "log p, nats", "PSNR, dB", "SSIM"), rows)


_WAYS = {
    _SQUARED_ERROR: '`LocalSearch(objective="squared_error")`',
    "wide search, squared error": '`LocalSearch(objective="squared_error", proposals=4, sweeps=2)`',
    "local search": "`LocalSearch()`",
    "best of 8": "`BestOf(8)`",
}


def search_block() -> str:
    """What each model's searches gain, and their cost in decodes."""
    wanted = ("best of 8", "local search, 2 proposals, 1 sweep", "squared error, 2 proposals, 1 sweep")
    rows = []
    for model in _models():
        try:
            found = {row["name"]: row for row in result(f"search_{model}")["results"]}
        except InputError:
            continue
        for name in wanted:
            if name in found:
                row, greedy = found[name], found["greedy"]
                nats, decibels = row["log_p"] - greedy["log_p"], row["psnr"] - greedy["psnr"]
                gains = f"{number(nats, '+,.1f')} nats", f"{number(decibels, '+.2f')} dB"
                rows.append((f"`{model}`", name, f"{row['decodes']:.0f}", f"{1e3 * row['seconds']:.0f} ms", *gains))
    return table(("model", "codes", "decodes", "processor time", "log p", "PSNR"), rows)


def columns_block(name: str, *columns: str) -> str:
    """Chosen columns of the first table in ``NAME.md``; all without any."""
    lines = result_path(name).with_suffix(".md").read_text(encoding="utf-8").splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("| "))
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in _table_lines(lines[first:])]
    header = [cell.strip() for cell in cells[0]]
    missing = [column for column in columns if column not in header]
    if missing:
        raise InputError(f"{name}.md has no column {missing[0]!r}; it has {', '.join(header)}")
    places = [header.index(column) for column in columns or header]
    return table([header[place] for place in places], [[row[place].strip() for place in places] for row in cells[2:]])


def _table_lines(lines: list[str]) -> list[str]:
    end = next((place for place, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return lines[:end]


def control_block() -> str:
    """How long the simulated robot stays on its feet, and how it tracks."""
    content = json.loads((STUDIES / "control.json").read_text(encoding="utf-8"))
    header = ("targets", "stretches", "s until a fall", "reward", "joints", "torque", "processor time for 1 s")
    rows = [
        (
            mean["way"],
            mean["stretches"],
            f"{mean['seconds']:.2f} of {content['stretch_seconds']:g}",
            f"{mean['reward']:.2f}",
            f"{mean['joint_error']:.1f}°",
            f"{mean['torque']:.1f} N·m",
            f"{mean['processor_seconds']:.2f} s",
        )
        for mean in content["means"]
        if mean["motion"] == "all"
    ]
    return table(header, rows)


def source_block(*names: str) -> str:
    """Where an answer is from: file, command, date and weights of each result."""
    return "\n".join(f"- {_source(name)}" for name in names)


def _source(name: str) -> str:
    content, path = result(name), result_path(name)
    page = path.with_suffix(".md") if path.with_suffix(".md").is_file() else path
    commands = content.get("commands") or content.get("command") or []
    commands = [commands] if isinstance(commands, str) else commands
    date = (content.get("machine") or {}).get("date") or _latest_date(content)
    parts = [f"[{page.name}]({page.relative_to(RESULTS)})", *(f"`{command}`" for command in commands), date]
    weights = ", ".join(f"{model} {sha[:12]}" for model, sha in weights_of(name, content).items())
    return " · ".join(part for part in (*parts, f"weights of {weights}" if weights else "") if part)


def _latest_date(content: dict[str, Any]) -> str:
    """Of a report whose parts name a machine each."""
    parts = content.get("cells") or content.get("runs") or []
    return str(max((part["machine"]["date"] for part in parts), default=""))


def weights_of(name: str, content: dict[str, Any]) -> dict[str, str]:
    """What a result says of the weights it was measured with: the first digits of their sha256, by model."""
    if "weights_sha256" in content:
        return {name.split("_", 1)[1]: content["weights_sha256"]}
    described = content.get("models")
    found = {}
    for model, text in described.items() if isinstance(described, dict) else ():
        digits = re.search(r"weights ([0-9a-f]{12})", text) if isinstance(text, str) else None
        if digits:
            found[model] = digits[1]
    return found


def stale(folder: Path = RESULTS) -> list[str]:
    """Results in a folder that were measured with other weights than those of the built-in model of their name."""
    shipped = {model: open_model(model).config.weights_sha256 for model in built_in_models()}
    lines = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for model, sha in weights_of(path.stem, content).items() if isinstance(content, dict) else ():
            if not shipped.get(model, "").startswith(sha):
                again = content.get("command", "measure again")
                lines.append(f"{path.name}: weights {sha[:12]} of {model} are not shipped; {again}, or delete it")
    return lines


BLOCKS: dict[str, Callable[..., str]] = {
    "models": models_block,
    "paper": paper_block,
    "latency": latency_block,
    "quality": quality_block,
    "search": search_block,
    "columns": columns_block,
    "source": source_block,
    "control": control_block,
}


@click.command()
@click.option(
    "--check/--write", default=True, help="Compare, with exit code 1 where a page differs; or fill the pages."
)
def figures(check: bool) -> None:
    """Compare the numbers in README and docs with the results, or write them there."""
    wrong = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        try:
            filled = fill(text)
        except InputError as error:
            raise InputError(f"{page.relative_to(ROOT)}: {error}") from error
        if filled == text:
            continue
        if check:
            wrong.append(f"{page.relative_to(ROOT)}: python -m benchmarks figures --write")
        else:
            page.write_text(filled, encoding="utf-8")
            click.echo(page.relative_to(ROOT))
    wrong += stale()
    for line in wrong:
        click.echo(line, err=True)
    for line in stale(STUDIES):
        click.echo(f"note: {line}", err=True)
    if wrong:
        raise click.exceptions.Exit(1)
