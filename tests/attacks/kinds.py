"""The kinds of attack: each makes one input from random numbers, tries it, and says whether what loaded is right.

A kind is a function of a random generator and an empty folder. It returns if the input loaded and is right, and raises
a DapsError where it was refused, ``Wrong`` where something loaded that should not have, or left its folder.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from daps_tokenizer import BestOf, Codes, LocalSearch, Tokenizer, hub_transfer
from daps_tokenizer.codes.layouts import TileLayout
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.data.code_set_files import Shard
from daps_tokenizer.data.code_sets import CodeSet, merge_shards
from daps_tokenizer.data.converters import Format, convert, rows_of_set
from daps_tokenizer.data.datasets import open_data, read_labels
from daps_tokenizer.hub import built_in_models, copy_folder, open_model
from daps_tokenizer.images.load import Fitted, load_images
from daps_tokenizer.motion.clips import Clip
from tests.data import kills
from tests.hub.helpers import FILES
from tests.hub.helpers import MODEL as MODEL_FILES
from tests.hub.hub_server import LocalHub
from tests.paths import EXAMPLES

Random = np.random.Generator
SECRET = b"the secret"
MODEL = "daps-mnist"


class Wrong(Exception):  # noqa: N818 - an outcome
    """Something loaded that is not what was meant, or a secret left its folder."""


def pick(random: Random, options: Sequence[Any]) -> Any:
    """One of them as it is, which ``random.choice`` makes an array's element of."""
    return options[random.integers(len(options))]


def mutated(content: bytes, random: Random) -> bytes:
    """Some bytes changed, cut, doubled, or put in."""
    data = bytearray(content)
    for _ in range(random.integers(1, 6)):
        place, action = int(random.integers(len(data) + 1)), random.integers(5)
        if action == 0 and place < len(data):
            data[place] = random.integers(256)
        elif action == 1 and place < len(data):
            data[place] ^= 1 << random.integers(8)
        elif action == 2:
            del data[place : place + int(random.integers(1, 40))]
        elif action == 3:
            data[place:place] = random.bytes(int(random.integers(1, 20)))
        else:
            data[place : place + 4] = pick(random, [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"])
    return bytes(data)


# Values that JSON can hold and no setting should be.
STRANGE: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1e308, -0.0, float("nan"), float("inf"), "", "\x1b[2J", "../../evil",
    "a" * 5000, [], [[]], {}, {"a": 1}, [1, 2], [0, 0, 0], "\ud800", [None], "nan", "1_0",
]  # fmt: skip


def strange_json(content: Any, random: Random) -> Any:
    """The same content with one value or key changed, anywhere in it."""
    places = list(_places(content))
    holder, key = pick(random, places)
    action = random.integers(4)
    if action == 0 and isinstance(holder, dict):
        holder[str(STRANGE[13])] = holder.pop(key)
    elif action == 1:
        del holder[key]
    else:
        holder[key] = pick(random, STRANGE)
    return content


def _places(content: Any) -> Any:
    keys = content.keys() if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in list(keys):
        yield content, key
        yield from _places(content[key])


def daps_file(random: Random, folder: Path) -> None:
    """A ``.daps`` file with changed bytes, or a changed header whose checksum is right."""
    layout = TileLayout(50, 70, 2, 3) if random.random() < 0.5 else None
    shape = (1, 6, 8) if layout else (2, 8)
    codes = Codes(random.integers(0, 256, shape), 256, MODEL, "", layout)
    data = codes.to_bytes()
    if random.random() < 0.5:
        content = mutated(data, random)
    else:
        length = struct.unpack_from("<I", data, 5)[0]
        header = json.dumps(strange_json(json.loads(data[9 : 9 + length]), random)).encode()
        content = data[:5] + struct.pack("<I", len(header)) + header + data[9 + length : -4]
        content += struct.pack("<I", zlib.crc32(content))
    (folder / "x.daps").write_bytes(content)
    loaded = Codes.load(folder / "x.daps")
    if Codes.from_bytes(loaded.to_bytes()) != loaded or not np.array_equal(
        loaded.numpy().ravel(), codes.numpy().ravel()
    ):
        raise Wrong("other codes than were written")


def image_file(random: Random, folder: Path) -> None:
    """A damaged image, a header that claims another size, a format that is not read, or what is no file."""
    suffix = str(pick(random, ["png", "jpg", "webp", "gif", "bmp", "tiff", "ppm", "avif", "eps", "ico", "pcx", "tga"]))
    picture = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    try:
        picture.save(buffer, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
    except (KeyError, OSError):  # Pillow without this format
        picture.save(buffer, "PNG")
    path = folder / "x.png"
    action = random.integers(8)
    if action == 0:
        os.mkfifo(path)
    elif action == 1:
        path.symlink_to(str(pick(random, ["/dev/zero", "/dev/tty", "/proc/self/mem", "x.png", "/"])))
    elif action == 2:
        path.write_bytes(buffer.getvalue()[: random.integers(60)])
        os.truncate(path, 10**10)
    else:
        path.write_bytes(mutated(buffer.getvalue(), random) if action > 3 else buffer.getvalue())
    (image,) = load_images(path, channels=3, fitted=Fitted(32, 32, "crop"))
    if image.shape != (32, 32, 3) or suffix in ("eps", "ico", "pcx", "tga"):
        raise Wrong(f"{suffix} as {image.shape}")


WALK = (EXAMPLES / "walk.csv").read_bytes()


STRANGE_CELLS = (
    *(b"0_0.5", b"nan", b"inf", b"1e999", b"-", b"", b"\xff", b"0x10", b"1 2", b"1e300", b"9" * 400),
    b"\x1b[2J",
)


def motion_csv(random: Random, folder: Path) -> None:
    """A clip as CSV with changed bytes or numbers."""
    lines = WALK.splitlines()[:40]
    if random.random() < 0.5:
        row = int(random.integers(len(lines)))
        cells = lines[row].split(b",")
        cells[random.integers(len(cells))] = pick(random, STRANGE_CELLS)
        lines[row] = b",".join(cells)
        content = b"\n".join(lines)
    else:
        content = mutated(b"\n".join(lines), random)
    clip = Clip.from_bytes(content, source="x.csv", fps=30)
    if not np.isfinite(clip.qpos).all():
        raise Wrong("numbers that are not finite")
    if b"_" in content:
        raise Wrong("0_0.5 was taken for a number")


@cache
def _bomb(parts: int) -> bytes:
    """An NPZ archive of zeros, a million rows or one of several parts of them."""
    buffer, header = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        np.lib.format.write_array_header_1_0(  # type: ignore[attr-defined]
            header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 26)}
        )
        archive.writestr("qpos.npy", header.getvalue() + bytes(26 * 8 * 10**6 // parts))
    return buffer.getvalue()


def motion_npz(random: Random, folder: Path) -> None:
    """A clip as NPZ: damaged, with arrays of other types, or unpacking to a thousand times its size."""
    qpos = np.loadtxt(io.BytesIO(WALK), delimiter=",", max_rows=40)
    buffer = io.BytesIO()
    action = random.integers(4)
    strange = [
        np.array([{}], object), np.array("x"), np.array(np.nan), np.zeros((0, 26)), np.zeros(3, "V8"),
        qpos.astype(complex), np.array(["2020-01-01"], "M8[D]"), np.zeros((2, 26), np.float16),
        np.full((3, 26), np.inf), np.zeros((1, 26)), 10**400,
    ]  # fmt: skip
    if action == 0:
        buffer.write(_bomb(int(random.integers(1, 9))))
    else:
        arrays: dict[str, Any] = {"qpos": qpos, "fps": 30.0}
        if action == 1:
            arrays[str(pick(random, ["qpos", "fps", "names", "split_points", "data"]))] = strange[
                random.integers(len(strange))
            ]
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    content = buffer.getvalue() if action < 2 else mutated(buffer.getvalue(), random)
    clip = Clip.from_bytes(content, source="x.npz")
    if len(clip) != 40:
        raise Wrong(f"{len(clip)} frames")


CONFIG = json.loads((built_in_models()[MODEL] / "config.json").read_text())


def config_file(random: Random, folder: Path) -> None:
    """A ``config.json`` with a strange value, or changed bytes."""
    text = json.dumps(strange_json(json.loads(json.dumps(CONFIG)), random)).encode()
    (folder / "config.json").write_bytes(mutated(text, random) if random.random() < 0.3 else text)
    config = open_model(folder).config
    if "/" in config.name or not config.name.isprintable():
        raise Wrong(f"the name {config.name!r}")


def model_folder(random: Random, folder: Path) -> None:
    """A model folder with links, pipes, devices and files that config.json does not list; then copied."""
    files = {"model.safetensors": b"weights", "onnx/decoder.onnx": b"decoder", "onnx/weights.bin": b"more"}
    config = dict(CONFIG, files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    model, private = folder / "model", folder / "private"
    (model / "onnx").mkdir(parents=True)
    private.write_bytes(SECRET)
    for name, content in {**files, "README.md": b"# card", "config.json": json.dumps(config).encode()}.items():
        (model / name).write_bytes(content)
    name = str(pick(random, [*files, "README.md", "config.json", "onnx", "other.txt", "onnx/other.onnx"]))
    victim = model / name
    content = victim.read_bytes() if victim.is_file() else SECRET
    if victim.is_dir():
        victim.rename(folder / "elsewhere")
    else:
        victim.unlink(missing_ok=True)
    action = random.integers(5)
    if action == 0:
        victim.symlink_to(private)
    elif action == 1:
        victim.symlink_to("/dev/zero")
    elif action == 2:
        os.mkfifo(victim)
    elif action == 3:
        (folder / "same").write_bytes(content)  # a link to the very content
        victim.symlink_to(folder / ("elsewhere" if name == "onnx" else "same"))
    else:
        victim.write_bytes(mutated(content, random))
    copy = copy_folder(open_model(model), folder / "copy")
    for path in copy.rglob("*"):
        if path.is_symlink() or (path.is_file() and SECRET in path.read_bytes()):
            raise Wrong(f"{path.name} was copied")


def graph_file(random: Random, folder: Path) -> None:
    """A model whose decoder is another model's, or whose config.json says other sizes; every sha256 is right."""
    source = built_in_models()[MODEL]
    other = built_in_models()[str(pick(random, ["daps-mnist", "daps-cifar10", "daps-h1-motion"]))]
    graph = str(pick(random, ["decoder", "encoder", "scorer", "likelihood"]))
    files = {"onnx/decoder.onnx": (other / f"onnx/{graph}.onnx").read_bytes()}
    files["onnx/weights.bin"] = (other / "onnx/weights.bin").read_bytes()
    config = TokenizerConfig.from_file(source / "config.json")
    if random.random() < 0.3:
        config = dataclasses.replace(config, input_shape=(14, 56, 1))
    elif random.random() < 0.5:
        files["onnx/decoder.onnx"] = mutated(files["onnx/decoder.onnx"], random)
    config = dataclasses.replace(config, files={name: hashlib.sha256(c).hexdigest() for name, c in files.items()})
    (folder / "onnx").mkdir()
    for name, content in {**files, "config.json": config.to_json().encode()}.items():
        (folder / name).write_bytes(content)
    images = Tokenizer.from_pretrained(folder, num_threads=1).decode(np.zeros((3, 8), int))
    if images.shape != (3, *config.input_shape):
        raise Wrong(f"codes were decoded to {images.shape}")


def tar_file(random: Random, folder: Path) -> None:
    """A tar file of images: damaged headers, links, strange labels."""
    buffer = io.BytesIO()
    picture = io.BytesIO()
    Image.new("L", (28, 28), 200).save(picture, "PNG")
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(3):
            labels = [b"3", b"1_0", b"3.5", b"9" * 5000, b"-1", b"", b"\xff"]
            label = pick(random, labels) if random.random() < 0.5 else b"1"
            for suffix, content in (("png", picture.getvalue()), ("cls", label)):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                if random.random() < 0.1:
                    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                    member.size = 0
                archive.addfile(member, io.BytesIO(content))
    content = bytearray(buffer.getvalue())
    if random.random() < 0.5:  # the size field of a header, negative or huge
        start = 512 * int(random.integers(len(content) // 512))
        sizes = [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"7" * 12, b"-1         \0"]
        content[start + 124 : start + 136] = pick(random, sizes)
    (folder / "x.tar").write_bytes(bytes(content) if random.random() < 0.7 else mutated(bytes(content), random))
    data = open_data(folder / "x.tar", tokenizer().config)
    _ = data.labels
    for index in range(min(len(data), 5)):
        data.read(np.array([index]))


def labels_file(random: Random, folder: Path) -> None:
    """Labels of a data set as CSV, with changed bytes or cells, or what is no file."""
    for number in range(3):
        Image.new("L", (28, 28), 200).save(folder / f"{number}.png")
    data = open_data(folder, tokenizer().config)
    path = folder / "labels.csv"
    rows = [["item", "label"], *([f"{number}.png", "1"] for number in range(3))]
    if random.random() < 0.5:
        row = rows[random.integers(len(rows))]
        row[random.integers(2)] = str(
            pick(random, ["0.5", "1_0", "-1", "9" * 30, "", '"', "a,b", "\0", *STRANGE[12:16]])
        )
    content = "\n".join(map(",".join, rows)).encode("utf-8", "replace")
    if random.random() < 0.1:
        os.mkfifo(path)
    else:
        path.write_bytes(mutated(content, random) if random.random() < 0.5 else content)
    found = read_labels(path, data)
    if len(found.values) != 3 or found.values.min() < -1 or len(found.classes or ()) > 3:
        raise Wrong(f"labels {found}")


def code_set(random: Random, folder: Path) -> None:
    """A data set as codes, whole, in shards or not finished, one file of which is another; then read and converted."""
    codes, count = folder / "codes", int(random.integers(1, 3))
    for index in range(count):
        kills.write(codes, shard=Shard(index, count))
    victim = pick(random, sorted(codes.iterdir()))
    content = victim.read_bytes()
    if victim.suffix == ".json" and random.random() < 0.5:
        content = json.dumps(strange_json(json.loads(content), random)).encode()
        if random.random() < 0.2:  # what a killed run leaves
            victim.unlink()
            victim = victim.with_name(victim.name.replace("dataset", "progress"))
    else:
        content = mutated(content, random)
    action = random.integers(8)
    victim.unlink(missing_ok=True)
    if action == 0:
        os.mkfifo(victim)
    elif action == 1:
        victim.symlink_to(str(pick(random, ["/dev/zero", "/dev/tty", "x", "/"])))
    else:
        victim.write_bytes(content)
        if action == 2:
            os.truncate(victim, 10**10)
    found = CodeSet.open(codes)
    rows, lines = found[0 : len(found)], list(found.items())
    if len(rows) != len(lines) or len(rows) != len(found.labels):
        raise Wrong(f"{len(rows)} rows, {len(lines)} lines, {len(found.labels)} labels")
    to: Format = pick(random, ["webdataset", "bin", "jsonl", "npy-folder"])
    convert(rows_of_set(found), to, folder / "converted")


def killed(random: Random, folder: Path) -> None:
    """A process that writes, replaces, resumes or merges a data set, and is killed before one of its calls."""
    whole, place, count = folder / "whole", folder / "codes", int(random.integers(1, 4))
    kills.write(whole)
    shards = [Shard(index, count) for index in range(count)]
    for _ in range(int(random.integers(1, 4))):
        work = partial(kills.write, place, shard=pick(random, shards))
        kills.is_killed_at(int(random.integers(100)), work)
    for shard in shards:
        kills.write(place, shard=shard)
    if count > 1:
        merge = partial(merge_shards, place, folder / "merged")
        kills.is_killed_at(int(random.integers(60)), merge)
        merge()
    elif random.random() < 0.5:
        replacing = partial(kills.write, place, seed=1, replace=True)
        kills.is_killed_at(int(random.integers(80)), replacing)
        if len(kills.seeds_in(place)) != 1:
            raise Wrong("old and new codes in one set")
        kills.write(place, seed=0, replace=True)
    if kills.files(folder / "merged" if count > 1 else place) != kills.files(whole):
        raise Wrong("other files than those of an undisturbed run")


def hub(random: Random, folder: Path) -> None:
    """A Hub that sends other content, headers, sizes or errors than it should, or falls silent."""
    server = _hub()
    server.repositories.clear()
    server.storage.clear()
    files = dict(MODEL_FILES)
    action, name = random.integers(7), str(pick(random, sorted(files)))
    if action == 0:
        files["config.json"] = json.dumps(strange_json(json.loads(files["config.json"]), random)).encode()
    server.commit("org/tiny", files)
    server.headers, server.failure, server.changes, server.dropped = {}, None, {}, set()
    server.seconds_per_byte = None
    server.is_silent.clear()
    if action in (1, 6):
        header = pick(
            random, ["ETag", "X-Linked-Etag", "X-Repo-Commit", "X-Linked-Size", "Content-Encoding", "Location"]
        )
        values = [
            "../../evil",
            '"../../../evil"',
            "",
            "\x1b[2J",
            "9" * 30,
            "-1",
            "gzip",
            "a" * 5000,
            "http://[",
            server.url,
        ]
        server.headers[str(header)] = str(pick(random, values))
    if action == 2:
        server.changes[name] = lambda content: mutated(content, random)
    elif action == 3:
        server.changes[name] = lambda content: gzip.compress(bytes(10**7))
        server.headers["Content-Encoding"] = "gzip"
    elif action == 4:
        again = {408, 429, 500, 502, 503, 504}  # which the client asks again, for half a minute
        server.failure = pick(random, [status for status in HTTPStatus if status > 200 and status not in again])
    elif action == 5:
        server.dropped.add(name)
    elif action == 6 and random.random() < 0.5:
        server.is_silent.set()
    try:
        model = open_model("org/tiny", cache_dir=folder / "cache")
        if any(
            model.file(file).read_bytes() != content for file, content in FILES.items() if file in model.config.files
        ):
            raise Wrong("other files than were meant")
    finally:
        server.is_silent.clear()
        strange = [path for path in folder.rglob("*") if "evil" in path.name]
        if strange or [path.name for path in folder.iterdir()] not in ([], ["cache"]):
            raise Wrong("a file outside of the cache")


@cache
def _hub() -> LocalHub:
    """A Hub on this machine, which the client is told of before it is imported, and which has little patience."""
    server = LocalHub()
    client = {
        "HF_ENDPOINT": server.url,
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    os.environ.update(client)
    hub_transfer.SILENT_SECONDS = 0.5
    hub_transfer.MOST_BYTES = 10**6
    return server


def api(random: Random, folder: Path) -> None:
    """Arguments of the wrong type or size for each public method."""
    tok = tokenizer()
    picture = np.zeros((28, 28), np.uint8)
    values: list[Any] = [
        *STRANGE, np.int8(3), np.float16(np.nan), np.array([]), np.zeros(3, "V8"), np.array(["x"]),
        np.datetime64("2020"), np.timedelta64(1), 1j, object(), b"", range(3), {1}, NoArray(), -1.5, np.array(2),
        [picture, None], (picture,),
    ]  # fmt: skip
    value = pick(random, values)
    calls: list[Callable[[], Any]] = [
        lambda: tok.encode(value),
        lambda: tok.encode(picture, fit=value),
        lambda: tok.encode(picture, value_range=value),
        lambda: tok.encode(picture, search=value),
        lambda: tok.encode(picture, overlap=value),
        lambda: tok.sample(picture, temperature=value),
        lambda: tok.sample(picture, seed=value),
        lambda: tok.sample(picture, num_samples=value if not isinstance(value, int) or value > 2**30 else 1),
        lambda: tok.decode(value),
        lambda: tok.codes(value),
        lambda: tok.log_prob(picture, value),
        lambda: tok.encode(picture, search=BestOf(2, temperature=value)),
        lambda: LocalSearch(sweeps=value),
        lambda: LocalSearch(max_seconds=value),
        lambda: Codes(value, 4, MODEL, ""),
        lambda: Codes(np.zeros((1, 2), int), value, MODEL, ""),
        lambda: Codes(np.zeros((1, 2), int), 4, value, value),
        lambda: Codes.from_bytes(value),
        lambda: Clip(value),
        lambda: Clip(np.zeros((2, 26)), value),
    ]
    pick(random, calls)()


class NoArray:
    """What claims to be an array and is none."""

    shape, dtype = (1, 8), "int32"

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise RuntimeError("no array")


_opened: list[Tokenizer] = []


def tokenizer() -> Tokenizer:
    """The model of the attacks, opened once."""
    if not _opened:
        _opened.append(Tokenizer.from_pretrained(MODEL, num_threads=1))
    return _opened[0]


KINDS: dict[str, Callable[[Random, Path], None]] = {
    kind.__name__: kind
    for kind in (
        daps_file, image_file, motion_csv, motion_npz, config_file, model_folder, graph_file, tar_file, labels_file,
        code_set, killed, hub, api,
    )
}  # fmt: skip
