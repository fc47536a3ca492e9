"""The ``.daps`` file: exactly the codes or a typed error, never anything else."""

import json
import math
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.codes.layouts import ClipLayout, TileLayout
from daps_tokenizer.errors import CodesFileError, DapsError, OutputExistsError

SMALL = Codes(np.array([[0, 1, 2], [3, 4, 1]]), vocab_size=5, model="tiny", weights_sha256="")
SMALL_HEADER = b'{"model":"tiny","weights_sha256":"","vocab_size":5,"shape":[2,3],"layout":null}'
SMALL_PAYLOAD = bytes([0b000_001_01, 0b0_011_100_0, 0b01_000000])
SMALL_BYTES = b"DAPS\x01" + b"\x4f\x00\x00\x00" + SMALL_HEADER + SMALL_PAYLOAD + b"\x96\x6b\xf3\x85"

TILED = Codes(
    np.arange(12).reshape(2, 6, 1) % 7,
    vocab_size=300,
    model="tiled",
    weights_sha256="0123456789abcdef" * 4,
    layout=TileLayout(height=40, width=90, rows=2, columns=3),
)


CLIP = {"frames": 60, "windows": 2, "overlap": 0, "fps": 30, "starts": []}  # a layout that SMALL may have


def file_with(header: object, payload: bytes = SMALL_PAYLOAD) -> bytes:
    """A file as another program may write it: magic, version, length and CRC are right."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return with_crc(b"DAPS\x01" + struct.pack("<I", len(text)) + text + payload)


def with_crc(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def header_with(**changes: Any) -> dict[str, Any]:
    return {**json.loads(SMALL_HEADER), **changes}


# The format


def test_the_format_is_the_one_that_was_published() -> None:
    assert SMALL.to_bytes() == SMALL_BYTES
    assert Codes.from_bytes(SMALL_BYTES) == SMALL


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_anything_like_bytes_is_read(kind: Callable[[bytes], bytes]) -> None:
    assert Codes.from_bytes(kind(SMALL_BYTES)) == SMALL


def test_what_is_not_like_bytes_is_refused() -> None:
    with pytest.raises(CodesFileError, match=r"^x\.daps: expected bytes, not str$"):
        Codes.from_bytes("DAPS", source="x.daps")  # type: ignore[arg-type]


def test_a_layout_is_kept_in_the_header() -> None:
    data = TILED.to_bytes()
    header = json.loads(data[9 : 9 + struct.unpack_from("<I", data, 5)[0]])
    assert header["layout"] == {"height": 40, "width": 90, "rows": 2, "columns": 3, "overlap": 0}


@st.composite
def any_codes(draw: st.DrawFn) -> Codes:
    vocab_size = draw(st.integers(2, 65536))
    shape = draw(st.lists(st.integers(1, 12), min_size=2, max_size=4))
    layout: TileLayout | ClipLayout | None = None
    kind = draw(st.sampled_from(["whole", "tiles", "windows"]))
    if kind == "windows":
        clips = math.prod(shape[:-2])
        number = st.floats(-1e4, 1e4)
        starts = draw(st.lists(st.tuples(number, number, number), min_size=clips, max_size=clips))
        layout = ClipLayout(
            draw(st.integers(1, 9999)),
            shape[-2],
            draw(st.integers(0, 31)),
            draw(st.floats(1, 1_000)),
            draw(st.sampled_from([(), tuple(starts)])),
        )
    if kind == "tiles":
        rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        shape[-2] = rows * columns
        layout = TileLayout(draw(st.integers(1, 9999)), draw(st.integers(1, 9999)), rows, columns)
    seed = draw(st.integers(0, 2**32 - 1))
    values = np.random.default_rng(seed).integers(0, vocab_size, size=shape)
    values.flat[-1] = draw(st.sampled_from([0, vocab_size - 1]))
    sha = draw(st.sampled_from(["", "0123456789abcdef" * 4]))
    name = draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True))
    return Codes(values, vocab_size, name, sha, layout)


@given(codes=any_codes())
@settings(deadline=None)
def test_any_codes_come_back_exactly(codes: Codes) -> None:
    data = codes.to_bytes()
    assert Codes.from_bytes(data) == codes
    bits = (codes.vocab_size - 1).bit_length()
    text = "".join(f"{code:0{bits}b}" for code in codes.values.ravel())  # the payload as the module describes it
    size = (len(text) + 7) // 8
    assert codes.num_bits == len(text)
    assert data[-4 - size : -4] == int(text.ljust(8 * size, "0"), 2).to_bytes(size, "big")


# Damage


def assert_refused_or_exact(data: bytes, codes: Codes) -> None:
    try:
        read = Codes.from_bytes(data, source="x.daps")
    except CodesFileError as error:
        assert str(error).startswith("x.daps: ") and "\n" not in str(error)
    else:
        assert read == codes


for_each_file = pytest.mark.parametrize("codes", [SMALL, TILED], ids=["small", "tiled"])


@for_each_file
def test_every_bit_flipped_is_noticed(codes: Codes) -> None:
    data = codes.to_bytes()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodesFileError, match=r"^x\.daps: "):
            Codes.from_bytes(bytes(changed), source="x.daps")


@for_each_file
def test_every_cut_is_called_a_cut(codes: Codes) -> None:
    data = codes.to_bytes()
    for size in range(len(data)):
        with pytest.raises(CodesFileError, match=rf"^x\.daps: cut short: it has {size} bytes"):
            Codes.from_bytes(data[:size], source="x.daps")


@for_each_file
def test_every_cut_in_front_is_noticed(codes: Codes) -> None:
    data = codes.to_bytes()
    for size in range(1, len(data)):
        with pytest.raises(CodesFileError, match=r"^x\.daps: (not a \.daps file|cut short)"):
            Codes.from_bytes(data[size:], source="x.daps")


@for_each_file
def test_every_appended_byte_is_noticed(codes: Codes) -> None:
    for byte in range(256):
        with pytest.raises(CodesFileError, match=r"^x\.daps: 1 trailing bytes? after the end"):
            Codes.from_bytes(codes.to_bytes() + bytes([byte]), source="x.daps")


@for_each_file
def test_a_file_appended_to_itself_is_noticed(codes: Codes) -> None:
    data = codes.to_bytes()
    with pytest.raises(CodesFileError, match=rf"{len(data)} trailing bytes"):
        Codes.from_bytes(data + data)


@for_each_file
def test_every_flipped_bit_with_a_crc_made_to_fit_gives_an_error_or_valid_codes(codes: Codes) -> None:
    body = codes.to_bytes()[:-4]
    for bit in range(8 * len(body)):
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            read = Codes.from_bytes(with_crc(bytes(changed)))
        except CodesFileError:
            continue
        assert read != codes


@given(data=st.binary(max_size=80), prefix=st.sampled_from([b"", b"DAPS", b"DAPS\x01", SMALL_BYTES, SMALL_BYTES[:60]]))
@settings(deadline=None)
def test_arbitrary_bytes_are_refused(data: bytes, prefix: bytes) -> None:
    assert_refused_or_exact(prefix + data, SMALL)


# Each cause has its own message


def damaged(offset: int) -> bytes:
    return SMALL_BYTES[:offset] + bytes([SMALL_BYTES[offset] ^ 1]) + SMALL_BYTES[offset + 1 :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89PNG\r\n\x1a\n", r"not a \.daps file: it starts with b'\\x89PNG' where b'DAPS' is expected"),
        (b"", r"cut short: it has 0 bytes"),
        (with_crc(b"DAPS\x02" + SMALL_BYTES[5:-4]), r"\.daps version 2 is not known; this program reads version 1"),
        (SMALL_BYTES[:-1], r"cut short: it has 94 bytes, a whole file would have at least 95"),
        (damaged(5), r"changed after it was written \(its CRC-32 does not match\)"),
        (damaged(9), r"changed after it was written"),
        (damaged(20), r"changed after it was written"),
        (damaged(-5 + len(SMALL_BYTES)), r"changed after it was written"),
        (damaged(-1 + len(SMALL_BYTES)), r"changed after it was written"),
        (SMALL_BYTES + b"more", r"4 trailing bytes after the end"),
        (file_with(header_with(), b"\x05\x38\x41"), r"the 6 unused bits after the last code are not all zero"),
        (file_with(header_with(), b"\x05\x3e\x40"), r"code 7 at index \(1, 1\) is out of range: .* are 0 to 4"),
        (b"DAPS\x01\xff\xff\xff\xff" + SMALL_BYTES[9:], r"cut short: it has 95 bytes, .* at least 4294967308"),
    ],
)
def test_each_cause_has_its_own_message(data: bytes, message: str) -> None:
    with pytest.raises(CodesFileError, match=rf"^picture\.daps: {message}"):
        Codes.from_bytes(data, source="picture.daps")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff\xfe", "'utf-8' codec can't decode"),
        (b"[" * 100_000, "maximum recursion depth exceeded"),
        (b"9" * 5000, "Exceeds the limit"),
        ([], "JSON: expected a mapping of settings, found list"),
        ({"model": "tiny"}, "JSON: key 'layout' is missing"),
        (header_with(extra=1), "JSON: unknown key 'extra'; known keys are layout, model, shape, vocab_size"),
        (header_with(model=3), "JSON: model: expected str, found 3"),
        (header_with(weights_sha256="12"), "weights_sha256 must be 64 lower-case hex digits or empty"),
        (header_with(vocab_size=1), "vocab_size must be an integer from 2 to 65536, not 1"),
        (header_with(vocab_size=10**400), "vocab_size must be an integer from 2 to 65536"),
        (header_with(vocab_size="5"), "JSON: vocab_size: expected int, found '5'"),
        (header_with(shape=6), "JSON: shape: expected a list, found 6"),
        (header_with(shape=[2, 3.0]), r"JSON: shape\[1\]: expected int, found 3.0"),
        (header_with(shape=[]), r"shape must be 1 to 32 positive sizes that an array can have, not \(\)"),
        (header_with(shape=[1] * 33), "shape must be 1 to 32 positive sizes"),
        (header_with(shape=[0, 3]), r"shape must be positive sizes, not \(0, 3\)"),
        (header_with(shape=[-2, -3]), r"shape must be 1 to 32 positive sizes that an array can have, not \(-2, -3\)"),
        (header_with(shape=[2**40, 2**40]), "shape must be 1 to 32 positive sizes that an array can have"),
        (header_with(shape=[10**4000] * 32), "shape must be 1 to 32 positive sizes that an array can have"),
        (header_with(shape=[2**31, 2**30]), r"shape \(2147483648, 1073741824\) with vocab_size 5 takes \d+ bytes"),
        (header_with(shape=[3, 3]), r"shape \(3, 3\) with vocab_size 5 takes 96 bytes, not 95"),
        (header_with(shape=[1, 3]), r"shape \(1, 3\) with vocab_size 5 takes 94 bytes, not 95"),
        (header_with(layout=[1]), "JSON: layout: expected a mapping of settings, found list"),
        (header_with(layout={"height": 1}), "JSON: layout: key 'columns' is missing"),
        (header_with(layout={"rows": 2, "columns": 1, "overlap": 3}), "layout.overlap of tiles must be 0, not 3"),
        (header_with(layout={"rows": 2, "columns": 1}), "layout.overlap of tiles must be 0, not None"),
        (
            header_with(layout={"height": 9, "width": 9, "rows": 0, "columns": 2, "overlap": 0}),
            "layout.rows must be an integer from 1 to 2147483647, not 0",
        ),
        (
            header_with(layout={"height": 9, "width": 9, "rows": 2, "columns": 2, "overlap": 0}),
            r"layout of 4 tiles needs codes of shape \(\.\.\., 4, tokens\), not \(2, 3\)",
        ),
        (header_with(layout=CLIP | {"windows": 3}), r"layout of 3 windows needs codes of shape \(\.\.\., 3, tokens\)"),
        (header_with(layout=CLIP | {"fps": 10**400}), "JSON: layout: fps: too large a number"),
        (header_with(layout=CLIP | {"fps": math.inf}), "JSON: layout: fps: expected a finite number, found inf"),
        (header_with(layout=CLIP | {"starts": [[0, 0]]}), r"layout.starts\[0\] must be x, y and heading"),
        (header_with(layout=CLIP | {"starts": [[1e300, 0, 0]]}), r"layout.starts\[0\] must be at most 10,000 m from"),
        (header_with(layout=CLIP | {"starts": [0]}), r"JSON: layout: starts\[0\]: expected a list, found 0"),
        (header_with(layout=CLIP | {"starts": [[0, 0, 0]] * 2}), "layout has 2 starts for codes of 1 clips"),
        (header_with(layout=CLIP | {"rows": 1}), "JSON: layout: unknown key"),
    ],
)
def test_a_header_that_is_not_valid_says_why(header: object, message: str) -> None:
    with pytest.raises(CodesFileError, match=rf"^picture\.daps: header not valid: {message}"):
        Codes.from_bytes(file_with(header), source="picture.daps")


# On disk


def test_a_saved_file_loads_and_nothing_else_is_left(tmp_path: Path) -> None:
    for path in (tmp_path / "x.daps", str(tmp_path / "x.daps")):  # the second one overwrites the first
        TILED.save(path)
        assert Codes.load(path) == TILED
    assert [file.name for file in tmp_path.iterdir()] == ["x.daps"]


def test_a_file_that_is_there_is_kept_without_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "x.daps"
    SMALL.save(path, overwrite=False)
    with pytest.raises(OutputExistsError, match=r"x\.daps: already exists"):
        TILED.save(path, overwrite=False)
    assert Codes.load(path) == SMALL
    assert [file.name for file in tmp_path.iterdir()] == ["x.daps"]


def test_saving_into_a_folder_that_is_missing_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DapsError, match=r"x\.daps': cannot be written \(No such file or directory\)"):
        SMALL.save(tmp_path / "missing" / "x.daps")


@pytest.mark.parametrize(
    ("make", "reason"),
    [(lambda path: None, "No such file or directory"), (Path.mkdir, "Is a directory")],
    ids=["missing", "folder"],
)
def test_loading_what_cannot_be_read_names_the_file(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    path = tmp_path / "x.daps"
    make(path)
    with pytest.raises(CodesFileError, match=rf"x\.daps': cannot be read \({reason}\); expected a \.daps file"):
        Codes.load(path)


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.daps")
    (tmp_path / "device.daps").symlink_to("/dev/zero")
    for name in ("pipe.daps", "device.daps"):
        with pytest.raises(CodesFileError, match=rf"{name}': cannot be read \(not a regular file\)"):
            Codes.load(tmp_path / name)


def test_a_file_larger_than_any_codes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.daps").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(CodesFileError, match=r"cannot be read \(larger than 1,073,741,824 bytes\)"):
        Codes.load(tmp_path / "sparse.daps")


def test_many_codes_take_little_more_memory_than_themselves_and_come_back() -> None:
    values = np.random.default_rng(0).integers(0, 1024, (3, 2**20 + 7), dtype=np.int32)
    data = Codes(values, 1024, "tiny", "").to_bytes()
    tracemalloc.start()
    codes = Codes.from_bytes(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(codes.numpy(), values)
    assert peak < 4 * values.nbytes


def test_loading_a_damaged_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.daps"
    path.write_bytes(SMALL_BYTES[:-3])
    with pytest.raises(CodesFileError, match=r"x\.daps: cut short"):
        Codes.load(path)
