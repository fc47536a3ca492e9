"""Archives of arrays: read as they are, or refused in one line that names the file."""

import io
from pathlib import Path

import numpy as np
import pytest

from daps_tokenizer.data import archives
from daps_tokenizer.data.archives import read_npz, reading
from daps_tokenizer.errors import ConfigError, InputError

ARRAYS = {"data": np.arange(6.0).reshape(2, 3), "names": np.array(["run", "walk"])}


def refusal(path: Path, *names: str) -> str:
    with pytest.raises(InputError) as caught:
        read_npz(path, *names, source=str(path), expected="an archive of clips")
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.endswith("; expected an archive of clips")
    assert "\n" not in message
    return message


def test_all_arrays_are_read_or_those_that_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "clips.npz"
    np.savez(path, **ARRAYS)  # type: ignore[arg-type]
    found = read_npz(path, source="clips", expected="clips")
    assert list(found) == ["data", "names"]
    np.testing.assert_array_equal(found["data"], ARRAYS["data"])
    assert list(read_npz(path, "names", source="clips", expected="clips")) == ["names"]


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clips.npz"
    assert "no such file" in refusal(path)
    path.write_bytes(b"no archive")
    assert "cannot be read" in refusal(path)
    with path.open("wb") as file:
        np.save(file, ARRAYS["data"])
    assert "is one array and not an NPZ archive" in refusal(path)
    np.savez(path, **ARRAYS, objects=np.array([{}], object))  # type: ignore[arg-type]
    assert "allow_pickle=False" in refusal(path)
    assert "fps is not a file in the archive" in refusal(path, "fps")
    assert "Is a directory" in refusal(tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_changed_byte_is_either_harmless_or_an_error_of_ours(save) -> None:  # type: ignore[no-untyped-def]
    written = io.BytesIO()
    save(written, **ARRAYS)
    refused = 0
    for place in range(len(written.getvalue())):
        damaged = bytearray(written.getvalue())
        damaged[place] ^= 0xFF
        try:
            found = read_npz(io.BytesIO(damaged), *ARRAYS, source="clips", expected="clips")
        except InputError:
            refused += 1
            continue
        for name, array in found.items():
            np.testing.assert_array_equal(array, ARRAYS[name])
    assert refused > len(damaged) / 2


def test_errors_of_ours_come_through_as_they_are() -> None:
    with pytest.raises(ConfigError, match="as it is"), reading("clips", "clips"):
        raise ConfigError("as it is")


def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_ALWAYS_BYTES", 1000)
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(10**6))
    with pytest.raises(
        InputError, match=r"bomb: unpacks [\d,]+ bytes to 8,000,128, more than 50 times as many; expected"
    ):
        read_npz(tmp_path / "bomb.npz", source="bomb", expected="numbers")
    np.savez_compressed(tmp_path / "numbers.npz", a=np.random.default_rng(0).random(1000))
    assert read_npz(tmp_path / "numbers.npz", source="numbers", expected="numbers")["a"].shape == (1000,)
