"""``python -m tests.attacks``: try many hostile inputs, and write what became of them to benchmarks/results."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from benchmarks.reports import RESULTS, report, table, write_report
from daps_tokenizer.evaluation.timing import describe_machine
from tests.attacks.kinds import KINDS
from tests.attacks.run import attack

_COLUMNS = ("cases", "refused", "loaded", "untyped", "wrong", "hung", "crashed", "peak_megabytes")
_NOTES = (
    "Each case is a function of its kind, the seed and its number (tests/attacks/kinds.py). *Refused*: one of our "
    "errors, whose message is one printable line of at most 500 characters. *Loaded*: and is what it should be. "
    "*Untyped*: another exception. *Wrong*: other content than was written, a file from outside a model folder was "
    "copied, a Hub wrote outside the cache, or a data set that was killed ends with other files. *Hung*: more than "
    "120 s. *Crashed*: the process ended. These four must be 0. Peak memory, in MB, is that "
    "of the process."
)


@click.command()
@click.option("--cases", default=300, show_default=True, type=click.IntRange(min=1), help="Of each kind.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(KINDS)), help="Only these; repeatable.")
@click.option("--out", default=RESULTS, show_default=True, type=click.Path(path_type=Path), help="The folder to write.")
def main(cases: int, seed: int, kinds: tuple[str, ...], out: Path) -> None:
    """Try hostile inputs, and write attacks.md and attacks.json."""
    found = {}
    for kind in kinds or KINDS:
        found[kind] = attack(kind, cases, seed)
        click.echo(f"{kind}: {found[kind]}", err=True)
    command = f"python -m tests.attacks --cases {cases} --seed {seed}" + "".join(f" --kind {kind}" for kind in kinds)
    machine = describe_machine()
    rows = [(kind, *(getattr(result, column) for column in _COLUMNS)) for kind, result in found.items()]
    bad = [f"- {line}" for result in found.values() for line in result.bad]
    text = report(
        "Hostile inputs",
        [command],
        table(("kind", *_COLUMNS), rows),
        _NOTES,
        *(["\n".join(bad)] if bad else []),
        machine=machine,
    )
    results = {kind: asdict(result) for kind, result in found.items()}
    write_report(out, "attacks", {"command": command, "seed": seed, "kinds": results, "machine": machine}, text)
    click.get_current_context().exit(0 if all(result.is_good for result in found.values()) else 1)


if __name__ == "__main__":
    main()
