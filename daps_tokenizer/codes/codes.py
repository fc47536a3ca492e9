"""Codes: the integers a tokenizer makes, with the model that made them; and the ``.daps`` file that keeps them.

A ``.daps`` file, version 1, byte by byte (n = product of shape, b = ceil(log2 vocab_size) bits a code, at least 1):

    ===========  ===============  ====================================================================================
    offset       size in bytes    content
    ===========  ===============  ====================================================================================
    0            4                magic, the ASCII letters ``DAPS``
    4            1                format version, 1
    5            4                H, the length of the header: unsigned 32 bit, little-endian
    9            H                header: a JSON object, UTF-8, with exactly the keys below
    9 + H        ceil(n · b / 8)  payload: the n codes in C order (last axis fastest), each as b bits, most significant
                                  bit first, with no gap between codes; the first bit is the most significant of the
                                  first byte; unused low bits of the last byte are 0
    end − 4      4                CRC-32 (zlib, gzip, PNG) of every byte before it: unsigned 32 bit, little-endian
    ===========  ===============  ====================================================================================

Keys of the header: ``model`` (at most 100 letters, digits, ``.``, ``_`` and ``-``, the first a letter or digit),
``weights_sha256`` (64 lower-case hexadecimal digits, or "" where unknown), ``vocab_size`` (2 to 65536), ``shape`` (list
of positive integers, the last is the number of tokens) and ``layout``: null, or for a tiled image an object with the
integers ``height``, ``width``, ``rows``, ``columns`` and ``overlap``, the last always 0, or for a motion clip one with
the integers ``frames``, ``windows``, ``overlap``, the number ``fps`` and the list ``starts`` of [x, y, heading],
and where there are any, ``anchors``, of each clip a list of [x, y, heading] steps (see
``layouts.py``).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daps_tokenizer.checks import is_name
from daps_tokenizer.codes.layouts import ClipLayout, TileLayout, require, require_integer
from daps_tokenizer.config import config_from_dict
from daps_tokenizer.errors import BackendError, CodesError, CodesFileError, ConfigError, reason_of
from daps_tokenizer.files import read_regular_file, write_bytes_atomically
from daps_tokenizer.install import install_command

if TYPE_CHECKING:
    from torch import Tensor

_MAGIC = b"DAPS"
_VERSION = 1
_MOST_BYTES = 2**30  # of a file
_BLOCK = 2**20  # codes that are unpacked together; a multiple of 8, so that each block begins with a byte
_PREFIX = struct.Struct("<4sBI")
_CRC = struct.Struct("<I")
_MAX_AXES, _MAX_CODES = 32, 2**62  # numpy 1 holds no more axes, and no array holds that many codes


@dataclass(frozen=True)
class _Header:
    """What a ``.daps`` file says of its codes; checks everything about codes that can be known without them."""

    model: str
    weights_sha256: str
    vocab_size: int
    shape: tuple[int, ...]
    layout: TileLayout | ClipLayout | None

    def __post_init__(self) -> None:
        require(is_name(self.model), f"model must be a name of letters, digits, '.', '_' and '-', not {self.model!r}")
        is_sha256 = re.fullmatch(r"([0-9a-f]{64})?", str(self.weights_sha256)) is not None
        require(is_sha256, f"weights_sha256 must be 64 lower-case hex digits or empty, not {self.weights_sha256!r}")
        require_integer("vocab_size", self.vocab_size, 2, 65536)
        is_shape = 1 <= len(self.shape) <= _MAX_AXES and min(self.shape) >= 0 and math.prod(self.shape) < _MAX_CODES
        require(is_shape, f"shape must be 1 to {_MAX_AXES} positive sizes that an array can have, not {self.shape}")
        is_layout = self.layout is None or isinstance(self.layout, TileLayout | ClipLayout)
        require(is_layout, f"layout must be a TileLayout, a ClipLayout or None, not {self.layout!r}")
        if self.layout is not None:
            count, pieces = math.prod(self.layout.grid), self.layout.pieces
            fits = len(self.shape) >= 2 and self.shape[-2] == count
            require(fits, f"layout of {count} {pieces} needs codes of shape (..., {count}, tokens), not {self.shape}")
            self.layout.check_items(math.prod(self.shape[:-2]))

    @property
    def bits_per_code(self) -> int:
        return (self.vocab_size - 1).bit_length()

    @property
    def num_bits(self) -> int:
        return math.prod(self.shape) * self.bits_per_code


@dataclass(frozen=True, eq=False, repr=False)
class Codes:
    """Codes and the model that made them; equal where values and origin are equal, and not hashable.

    >>> codes = Codes(np.array([[3, 1], [0, 2]]), vocab_size=4, model="daps-mnist", weights_sha256="")
    >>> codes
    Codes(shape=(2, 2), vocab_size=4, model='daps-mnist', 8 bits)
    >>> codes[1].numpy()
    array([0, 2], dtype=int32)

    Args:
        values: integers 0 to vocab_size − 1, shape (..., N): (B, N) encoded, (B, S, N) sampled, (B, T, N) tiles of
            images or windows of clips, (B, S, T, N) samples of these. Kept as a read-only, C-contiguous int32 copy. Of
            no items there are codes too, (0, N), which no file can hold.
        vocab_size: V, values a code can take.
        model: name of the model.
        weights_sha256: sha256 of its ``model.safetensors``, which says exactly which model that is; "" if unknown.
        layout: how each image or clip was cut into the T pieces of the second last axis, None for whole inputs.

    Raises:
        CodesError: values that are no integers or out of range, or an origin that does not fit them.
    """

    values: np.ndarray
    vocab_size: int
    model: str
    weights_sha256: str
    layout: TileLayout | ClipLayout | None = None

    def __post_init__(self) -> None:
        if isinstance(self.values, str | os.PathLike):
            raise CodesError(f"codes must be integers, not a path; Codes.load({str(self.values)!r}) reads a .daps file")
        try:
            values = np.asarray(self.values)
        except Exception as error:  # a stranger's __array__ may raise anything
            raise CodesError(f"codes must be an array of integers, not {type(self.values).__name__}") from error
        require(values.shape[-1:] != (0,), f"codes of shape {values.shape} have no tokens; expected at least one each")
        require(values.dtype.kind in "iu", f"codes must be integers, not {values.dtype}")
        _Header(self.model, self.weights_sha256, self.vocab_size, values.shape, self.layout)
        if values.size and (values.min() < 0 or values.max() >= self.vocab_size):
            outside = (values < 0) | (values >= self.vocab_size)
            index = tuple(int(i) for i in np.unravel_index(int(outside.argmax()), values.shape))
            accepted = f"codes of {self.model!r} are 0 to {self.vocab_size - 1}"
            raise CodesError(f"code {values[index]} at index {index} is out of range: {accepted}")
        own = not values.flags.writeable and values.flags.owndata and values.flags.c_contiguous
        if not own or values.dtype != np.int32:
            values = np.array(values, dtype=np.int32, order="C")
            values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values, (..., N)."""
        return self.values.shape

    @property
    def num_tokens(self) -> int:
        """N, codes per item."""
        return self.shape[-1]

    @property
    def num_bits(self) -> int:
        """Bits of the packed payload: the number of codes × ceil(log2 V)."""
        return self._header.num_bits

    def numpy(self) -> npt.NDArray[np.int32]:
        """The values as a read-only array, (..., N) int32, not copied."""
        return self.values.view()

    def torch(self) -> Tensor:
        """The values as a new tensor on the CPU, (..., N) int64.

        Raises:
            BackendError: PyTorch is not installed.
        """
        try:
            import torch
        except ImportError as error:
            raise BackendError(
                f"PyTorch is not installed; install it with {install_command('torch')} or use codes.numpy()"
            ) from error
        return torch.from_numpy(self.values.astype(np.int64))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        """What ``torch.as_tensor(codes)`` reads: a copy, as other libraries know no read-only arrays."""
        return self.values.copy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[Any, int]:
        """The CPU."""
        return self.values.__dlpack_device__()

    def __len__(self) -> int:
        """Size of the first axis, the one that ``for item in codes`` walks along."""
        if not self._leading_shape:
            raise TypeError(f"codes of shape {self.shape} are those of one item, which has no length; see num_tokens")
        return self._leading_shape[0]

    def __iter__(self) -> Iterator[Codes]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: Any) -> Codes:
        """Pick items, with numpy's indexing of the leading axes; the result keeps its origin and whole items.

        Leading are all axes but that of tokens and, where there is a layout, that of tiles or windows. ``...`` stands
        for leading axes only, so ``codes[..., 0]`` is the first sample of every image.

        Raises:
            CodesError: the key reaches into the pieces or tokens of an item.
            IndexError: an index past the end of its axis.
        """
        leading = self._leading_shape
        entries = key if isinstance(key, tuple) else (key,)
        arrays = [np.asarray(entry) for entry in entries if entry is not None and entry is not Ellipsis]
        axes_indexed = sum(array.ndim if array.dtype == bool else 1 for array in arrays)  # a mask covers all its axes
        if axes_indexed > len(leading):
            whole = "tokens" if self.layout is None else f"{self.layout.pieces} and tokens"
            why = f"the {whole} of an item stay together; use codes.numpy() for single codes"
            raise CodesError(f"{axes_indexed} axes indexed, codes of shape {self.shape} have {len(leading)}: {why}")
        item_numbers = np.arange(math.prod(leading)).reshape(leading)[key]
        items = self.values.reshape(-1, *self.shape[len(leading) :])
        layout = self.layout and self.layout.take(np.ravel(item_numbers).tolist())
        return dataclasses.replace(self, values=items[item_numbers], layout=layout)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Codes):
            return NotImplemented
        return self._header == other._header and np.array_equal(self.values, other.values)

    def __repr__(self) -> str:
        origin = f"vocab_size={self.vocab_size}, model={self.model!r}"
        pieces = "" if self.layout is None else f", {self.layout}"
        return f"Codes(shape={self.shape}, {origin}{pieces}, {self.num_bits} bits)"

    def to_bytes(self) -> bytes:
        """The content of a ``.daps`` file, as in the table at the top of this module.

        Raises:
            CodesError: there are no items, which no file can hold.
        """
        require(self.values.size > 0, f"codes of shape {self.shape} are of no item; a .daps file holds at least one")
        content = dataclasses.asdict(self._header)
        if isinstance(self.layout, TileLayout):
            content["layout"]["overlap"] = 0
        elif isinstance(self.layout, ClipLayout) and not self.layout.anchors:
            del content["layout"]["anchors"]  # which earlier versions do not know
        header = json.dumps(content, separators=(",", ":")).encode()
        payload = _pack(self.values.ravel(), self._header.bits_per_code)
        body = _PREFIX.pack(_MAGIC, _VERSION, len(header)) + header + payload
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview, *, source: str = "codes") -> Codes:
        """Read and check the content of a ``.daps`` file; errors call it ``source``.

        Raises:
            CodesFileError: not a ``.daps`` file, unknown version, cut short, changed, trailing bytes, header not valid.
        """
        try:
            content = bytes(memoryview(data))
        except TypeError:
            raise CodesFileError(f"{source}: expected bytes, not {type(data).__name__}") from None
        header, payload = _split(content, source)
        unused_bits = 8 * len(payload) - header.num_bits
        if payload[-1] % (1 << unused_bits):
            raise CodesFileError(f"{source}: the {unused_bits} unused bits after the last code are not all zero")
        values = _unpack(payload, header.shape, header.bits_per_code)
        try:
            return cls(values, header.vocab_size, header.model, header.weights_sha256, header.layout)
        except CodesError as error:
            raise CodesFileError(f"{source}: {error}") from None

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Write a ``.daps`` file under a temporary name, then rename it.

        Raises:
            CodesError: there are no items.
            OutputExistsError: the file is there and ``overwrite`` is False, or the path is no regular file.
            DapsError: it cannot be written.
        """
        write_bytes_atomically(path, self.to_bytes(), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Codes:
        """Read and check a ``.daps`` file.

        Raises:
            CodesFileError: it cannot be read, or is refused by :meth:`from_bytes`.
        """
        try:
            data = read_regular_file(path, most_bytes=_MOST_BYTES)
        except (OSError, ValueError) as error:  # ValueError: a name that holds a null character
            raise CodesFileError(
                f"{os.fspath(path)!r}: cannot be read ({reason_of(error)}); expected a .daps file"
            ) from error
        return cls.from_bytes(data, source=str(path))

    @property
    def _header(self) -> _Header:
        return _Header(self.model, self.weights_sha256, self.vocab_size, self.shape, self.layout)

    @property
    def _leading_shape(self) -> tuple[int, ...]:
        return self.shape[: -1 if self.layout is None else -2]


def _pack(codes: npt.NDArray[np.int32], bits: int) -> bytes:
    """Codes (n,) as ``bits`` bits each, most significant bit first, zeros after the last."""
    sixteen = np.unpackbits(codes.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)
    return np.packbits(sixteen[:, 16 - bits :]).tobytes()


def _unpack(payload: memoryview, shape: tuple[int, ...], bits: int) -> npt.NDArray[np.int32]:
    """The inverse of :func:`_pack`: codes of this shape, read-only."""
    codes = np.zeros(shape, dtype=np.int32)
    flat, packed = codes.reshape(-1), np.frombuffer(payload, np.uint8)
    for start in range(0, len(flat), _BLOCK):  # single bits take eight times as much memory as codes
        block = flat[start : start + _BLOCK]
        part = packed[start * bits // 8 :]
        for bit in np.unpackbits(part[: -(-len(block) * bits // 8)], count=len(block) * bits).reshape(-1, bits).T:
            block <<= 1
            block |= bit
    codes.flags.writeable = False
    return codes


def _split(data: bytes, source: str) -> tuple[_Header, memoryview]:
    """Header and payload of a ``.daps`` file whose length and CRC are right; the errors of ``Codes.from_bytes``."""
    if data[:4] != _MAGIC[: len(data)]:
        raise CodesFileError(f"{source}: not a .daps file: it starts with {data[:4]!r} where {_MAGIC!r} is expected")
    if len(data) > 4 and data[4] != _VERSION:
        raise CodesFileError(f"{source}: .daps version {data[4]} is not known; this program reads version {_VERSION}")
    header_end = _PREFIX.size + (_PREFIX.unpack_from(data)[2] if len(data) >= _PREFIX.size else 0)
    _check_not_short(data, header_end + _CRC.size, source)
    crc_fits = _crc_fits(data, len(data))
    changed = CodesFileError(f"{source}: changed after it was written (its CRC-32 does not match)")
    try:
        header = _read_header(data[_PREFIX.size : header_end], source)
    except CodesFileError:
        if crc_fits:  # it was written like that
            raise
        raise changed from None
    payload_end = header_end + (header.num_bits + 7) // 8
    end = payload_end + _CRC.size
    if crc_fits and len(data) != end:
        mismatch = f"shape {header.shape} with vocab_size {header.vocab_size} takes {end} bytes, not {len(data)}"
        raise CodesFileError(f"{source}: header not valid: {mismatch}")
    _check_not_short(data, end, source)
    if len(data) > end and _crc_fits(data, end):
        raise CodesFileError(f"{source}: {len(data) - end} trailing bytes after the end of the .daps content")
    if not crc_fits:
        raise changed
    return header, memoryview(data)[header_end:payload_end]


def _read_header(text: bytes, source: str) -> _Header:
    try:
        content = json.loads(text.decode("utf-8"))
        layout = content.get("layout") if isinstance(content, dict) else None
        if isinstance(layout, dict) and "rows" in layout:  # of tiles
            overlap = layout.pop("overlap", None)
            require(type(overlap) is int and overlap == 0, f"layout.overlap of tiles must be 0, not {overlap!r}")
        header = config_from_dict(_Header, content, source="JSON")
        require(min(header.shape) >= 1, f"shape must be positive sizes, not {header.shape}")  # codes of no items
    except (ConfigError, CodesError, ValueError, RecursionError) as error:  # the last two: not JSON, or nested too deep
        raise CodesFileError(f"{source}: header not valid: {error}") from None
    return header


def _crc_fits(data: bytes, end: int) -> bool:
    return zlib.crc32(memoryview(data)[: end - _CRC.size]) == _CRC.unpack_from(data, end - _CRC.size)[0]


def _check_not_short(data: bytes, size: int, source: str) -> None:
    if len(data) < size:
        raise CodesFileError(f"{source}: cut short: it has {len(data)} bytes, a whole file would have at least {size}")
