"""``python -m benchmarks faults``: what becomes of a data set of codes when its run is killed, interrupted or starved.

Every run is a process of ``daps-tokenize dataset`` on real files. After each fault the same command is run again, and
its files are compared byte by byte with those of a run that nothing disturbed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
from PIL import Image

from benchmarks.reports import RESULTS, command_line, report, table, write_report
from daps_tokenizer.evaluation.timing import describe_machine

_SECONDS = 600  # for any one process
_SMALL_DISK = "size=64k"


@dataclass
class Outcome:
    """How often a fault was tried, how often the command run again ended with the files of an undisturbed run."""

    fault: str
    expected: str
    times: int = 0
    same: int = 0
    tracebacks: int = 0
    unexpected: list[str] = field(default_factory=list)

    def note_traceback(self, said: str) -> None:
        """Count a traceback on standard error, and keep its end."""
        if "Traceback" in said:
            self.tracebacks += 1
            self.unexpected.append(said.strip()[-600:])


class _Bench:
    """A folder of images, what they become undisturbed, and runs that are disturbed."""

    def __init__(self, work: Path, images: int, model: str, seed: int) -> None:
        self.work, self.model, self.draws = work, model, np.random.default_rng(seed)
        self.images = work / "images"
        self.images.mkdir()
        for number in range(images):
            pixels = self.draws.integers(0, 256, (28, 28), dtype=np.uint8)
            Image.fromarray(pixels).save(self.images / f"{number:05}.png")
        started = time.perf_counter()
        self.run(self.images, work / "whole")
        self.seconds = time.perf_counter() - started
        self.whole = files(work / "whole")

    def start(self, data: Path, output: Path) -> subprocess.Popen[str]:
        """One process of the command; it is interrupted by SIGINT even where this process is not."""
        command = [sys.executable, "-m", "daps_tokenizer", "dataset", str(data), "-o", str(output)]
        return subprocess.Popen(
            [*command, "--model", self.model, "--num-threads", "1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def run(self, data: Path, output: Path) -> tuple[int, str]:
        """Exit code and standard error."""
        process = self.start(data, output)
        _, said = process.communicate(timeout=_SECONDS)
        return process.returncode, said

    def disturb(self, outcome: Outcome, output: Path, act: Callable[[subprocess.Popen[str]], object]) -> None:
        """Run, act at a random moment, and note how the process ended."""
        process = self.start(self.images, output)
        time.sleep(float(self.draws.uniform(0, self.seconds)))
        act(process)
        _, said = process.communicate(timeout=_SECONDS)
        outcome.times += 1
        outcome.note_traceback(said)

    def again(self, outcome: Outcome, output: Path, times: int = 1) -> None:
        """The same command once more: note whether the files are those of the undisturbed run."""
        code, said = self.run(self.images, output)
        outcome.note_traceback(said)
        if code == 0 and files(output) == self.whole:
            outcome.same += times
        else:
            outcome.unexpected.append(f"exit code {code}: {said.strip()[-300:]}")


def files(folder: Path) -> dict[str, bytes]:
    """The contents of a folder's files but for locks, which a killed process leaves."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def killed(bench: _Bench, times: int) -> Outcome:
    """SIGKILL at random moments, several in the life of one set."""
    outcome = Outcome("kill -9 at a random moment", "the same command resumes")
    while outcome.times < times:
        output = bench.work / f"killed-{outcome.times}"
        before = outcome.times
        for _ in range(min(4, times - before)):
            bench.disturb(outcome, output, lambda process: process.kill())
        bench.again(outcome, output, outcome.times - before)
    return outcome


def interrupted(bench: _Bench, times: int) -> Outcome:
    """SIGINT at random moments."""
    outcome = Outcome("SIGINT at a random moment", "exit code 130, the same command resumes")
    for number in range(times):
        output = bench.work / f"interrupted-{number}"
        bench.disturb(outcome, output, lambda process: process.send_signal(signal.SIGINT))
        bench.again(outcome, output)
    return outcome


def vanished(bench: _Bench, times: int) -> Outcome:
    """The folder of images is renamed while they are read, and renamed back."""
    outcome = Outcome("the folder of images disappears", "one line, the same command resumes when it is back")
    away = bench.work / "away"
    for number in range(times):
        output = bench.work / f"vanished-{number}"
        bench.disturb(outcome, output, lambda _: shutil.move(bench.images, away))
        away.rename(bench.images)
        bench.again(outcome, output)
    return outcome


def full(bench: _Bench, times: int) -> Outcome:
    """A disk of 64 KB that is made larger afterwards; needs the right to mount one."""
    outcome = Outcome("full disk", "one line, the same command resumes when there is room")
    for number in range(times):
        disk = bench.work / f"disk-{number}"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", _SMALL_DISK, "tmpfs", disk], capture_output=True).returncode:
            outcome.expected += " (not run: no right to mount a disk)"
            return outcome
        try:
            code, said = bench.run(bench.images, disk / "codes")
            outcome.times += 1
            outcome.note_traceback(said)
            if code != 2 or "No space left on device" not in said:
                outcome.unexpected.append(f"exit code {code}: {said.strip()[-300:]}")
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            bench.again(outcome, disk / "codes")
        finally:
            subprocess.run(["umount", disk], check=True)
    return outcome


def shared(bench: _Bench, times: int) -> Outcome:
    """Two processes with the same output, started at once."""
    outcome = Outcome("two writers of one folder", "one writes, the other is told (exit code 2)")
    for number in range(times):
        output = bench.work / f"shared-{number}"
        pair = [bench.start(bench.images, output) for _ in range(2)]
        said = [process.communicate(timeout=_SECONDS)[1] for process in pair]
        outcome.times += 1
        outcome.note_traceback(" ".join(said))
        codes = sorted(process.returncode for process in pair)
        if codes == [0, 2] and any("writes here" in text for text in said) and files(output) == bench.whole:
            outcome.same += 1
        else:
            outcome.unexpected.append(f"exit codes {codes}: {' '.join(said)[-300:]}")
    return outcome


def broken(bench: _Bench) -> Outcome:
    """Of three tar files, the second has a damaged header: nothing is written until it is replaced."""
    outcome = Outcome("a broken tar file in the middle", "one line that names it, nothing is written", times=1)
    tars, output = bench.work / "tars", bench.work / "broken"
    tars.mkdir()
    paths = sorted(bench.images.iterdir())
    for number in range(3):
        with tarfile.open(tars / f"{number}.tar", "w") as archive:
            for path in paths[number * 10 : number * 10 + 10]:
                archive.add(path, path.name)
    bench.run(tars, bench.work / "tars-whole")
    whole = (tars / "1.tar").read_bytes()
    (tars / "1.tar").write_bytes(whole[:1024] + b"\xff" * 4096 + whole[5120:])
    code, said = bench.run(tars, output)
    outcome.note_traceback(said)
    if code != 2 or "1.tar: is damaged at byte" not in said or output.exists():
        outcome.unexpected.append(f"exit code {code}: {said.strip()[-300:]}")
    (tars / "1.tar").write_bytes(whole)
    bench.run(tars, output)
    outcome.same += files(output) == files(bench.work / "tars-whole")
    return outcome


@click.command("faults")
@click.option("--kills", type=click.IntRange(min=1), default=40, show_default=True, help="How often SIGKILL is sent.")
@click.option("--others", type=click.IntRange(min=1), default=5, show_default=True, help="How often each other fault.")
@click.option("--images", type=click.IntRange(min=1000), default=1000, show_default=True, help="Images in a data set.")
@click.option("--model", default="daps-mnist", show_default=True, help="The model.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the images and the moments.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, help="Where the report is written.")
def faults(kills: int, others: int, images: int, model: str, seed: int, output: Path) -> None:
    """Disturb runs of `daps-tokenize dataset` and count what was lost, doubled or wrong."""
    work = Path(tempfile.mkdtemp())
    try:
        bench = _Bench(work, images, model, seed)
        found = [killed(bench, kills), interrupted(bench, others), vanished(bench, others)]
        found += [full(bench, 1), shared(bench, others), broken(bench)]
    finally:
        shutil.rmtree(work)
    machine = describe_machine()
    rows = [(each.fault, each.expected, each.times, each.same, each.tracebacks, len(each.unexpected)) for each in found]
    header = ("fault", "what is expected", "times", "ended with the same files", "tracebacks", "unexpected")
    notes = f"{images:,} images of 28×28 pixels, {model}, seed {seed}; an undisturbed run takes {bench.seconds:.0f} s."
    text = report("Data sets of codes under faults", [command_line()], notes, table(header, rows), machine=machine)
    content = {
        "command": command_line(),
        "machine": machine,
        "images": images,
        "model": model,
        "seed": seed,
        "date": time.strftime("%Y-%m-%d"),
        "seconds_undisturbed": bench.seconds,
        "faults": [vars(each) for each in found],
    }
    print(table(header, rows))
    for path in write_report(output, "faults", content, text):
        print(os.path.relpath(path))
