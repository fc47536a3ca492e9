"""``python -m benchmarks``: how good the models are, how fast they are, and studies that were made once."""

from __future__ import annotations

from importlib import import_module

import click

from daps_tokenizer.cli.common import OneLineErrors

# A command's module is imported when it is called or listed; it imports PyTorch only when it runs.
COMMANDS = {
    "latency": "benchmarks.latency.command:latency",
    "quality": "benchmarks.quality.command:quality",
    "search": "benchmarks.search.command:search",
    "generate": "benchmarks.generate.command:generate",
    "modelling": "benchmarks.generate.modelling:modelling",
    "gpu": "benchmarks.gpu.report:gpu",
    "large": "benchmarks.large:large",
    "faults": "benchmarks.faults:faults",
    "dataset": "benchmarks.dataset:dataset",
    "peers": "benchmarks.peers:peers",
    "figures": "benchmarks.figures:figures",
    "autoregression": "benchmarks.studies.commands:autoregression",
    "compare": "benchmarks.studies.commands:compare",
    "controls": "benchmarks.studies.commands:controls",
    "control": "benchmarks.studies.control.command:control",
    "language": "benchmarks.studies.motion_commands:language",
    "kinds": "benchmarks.studies.motion_commands:kinds",
    "masked": "benchmarks.studies.commands:masked",
    "goals": "benchmarks.studies.motion_commands:goals",
    "path": "benchmarks.studies.motion_commands:path",
    "prior": "benchmarks.studies.commands:prior",
    "reward": "benchmarks.studies.commands:reward",
    "seams": "benchmarks.studies.commands:seams",
    "spans": "benchmarks.studies.commands:spans",
    "table": "benchmarks.studies.commands:table",
    "task": "benchmarks.studies.commands:task",
}


class Benchmarks(OneLineErrors):
    """Knows its commands by name, and where each is."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(import_module(module), name)
        return command


main = Benchmarks(help="Measure how good the models are and how fast, and repeat studies that were made once.")


if __name__ == "__main__":
    main()
