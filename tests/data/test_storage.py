"""Files to read: what lies in a folder, patterns, parquet files, and an object store on this machine."""

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daps_tokenizer.data.datasets import ImageFiles, open_data, read_labels, with_labels
from daps_tokenizer.data.sources import FileSource, ParquetSource, open_files
from daps_tokenizer.data.storage import SourceError, base_of, list_files, open_file
from daps_tokenizer.errors import InputError
from tests.hub.helpers import client_process, write_folder
from tests.hub.hub_server import LocalHub
from tests.photographs import encode_image, noise_photo, write_tar
from tests.settings import TINY_GRID


def photo(number: int) -> bytes:
    return encode_image(noise_photo(number, 16, 16))


def names(path: Path | str, **options: Any) -> list[str]:
    return [name for name, _ in open_data(path, TINY_GRID, **options).entries()]


# Folders


def test_pipes_and_devices_are_left_out_and_links_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(photo(0))
    (folder / "b.png").symlink_to(folder / "a.png")
    (folder / "c.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "e.png")
    (folder / "f").symlink_to(folder)  # a folder in itself
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "g.png").write_bytes(photo(1))
    (folder / "cat").symlink_to("../cats")
    assert names(folder) == ["photos/a.png", "photos/b.png", "photos/cat/g.png"]


def test_a_link_that_leads_to_nothing_is_a_broken_item(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(photo(0))
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    data = open_data(tmp_path, TINY_GRID)
    assert len(data.read(np.array([0]))) == 1
    with pytest.raises(InputError, match=r"b\.png: cannot be read"):
        data.read(np.array([1]))


def test_a_file_that_became_a_pipe_since_is_a_broken_item_and_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(photo(0))
    data = open_data(tmp_path, TINY_GRID)
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: cannot be read \(not a regular file\)"):
        data.read(np.array([0]))


def test_a_sparse_file_of_ten_gigabytes_is_a_broken_item(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(10 * 2**30)
    with pytest.raises(InputError, match=r"a\.png: cannot be read \(larger than 268,435,456 bytes\)"):
        open_data(tmp_path, TINY_GRID).read(np.array([0]))


def test_files_of_every_format_are_taken_and_the_others_counted(tmp_path: Path) -> None:
    for name in ("a.png", "b.tif", "c.heic", "d.GIF", "notes.txt", "e.raw"):
        (tmp_path / name).write_bytes(photo(0))
    data = open_data(tmp_path, TINY_GRID)
    assert isinstance(data, ImageFiles) and isinstance(data.source, FileSource)
    assert len(data) == 4 and data.source.ignored == 2


# Patterns


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two folders of two images each, and a tar file of two next to them."""
    for number, name in enumerate(("set/cat/0.png", "set/cat/1.png", "set/dog/0.png", "set/dog/1.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photo(number))
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", {f"{name}{number}.png": photo(number) for number in range(2)})
    return tmp_path


def test_a_pattern_names_files_folders_or_tar_files(classes: Path) -> None:
    assert names(f"{classes}/set/*/0.png") == ["set/cat/0.png", "set/dog/0.png"]
    assert names(f"{classes}/set/c*") == ["set/cat/0.png", "set/cat/1.png"]
    assert names(f"{classes}/set/**/*.png") == names(classes / "set")
    folder = classes.name
    assert names(f"{classes}/?.tar", limit=3) == [
        f"{folder}/a.tar, a0.png",
        f"{folder}/a.tar, a1.png",
        f"{folder}/b.tar, b0.png",
    ]
    assert open_data(f"{classes}/set/*/1.png", TINY_GRID).classes == ("cat", "dog")


def test_a_name_with_a_mark_of_a_pattern_is_a_name_where_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "set [1]").mkdir()
    (tmp_path / "set [1]" / "a.png").write_bytes(photo(0))
    assert names(tmp_path / "set [1]") == ["set [1]/a.png"] and base_of(f"{tmp_path}/set [1]") == str(tmp_path)


@pytest.mark.parametrize("name", ["none", "none/*.png", "empty"])
def test_what_names_nothing_is_said(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no such file or folder, or nothing in it; expected files, a folder or a pat"):
        open_data(tmp_path / name, TINY_GRID)


def test_a_file_of_another_kind_is_told_all_kinds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    said = r"notes\.txt: holds no images; expected files named \*\.webp.* or \*\.tar or \*\.parquet .*; clips need a"
    with pytest.raises(InputError, match=said):
        open_data(tmp_path / "notes.txt", TINY_GRID)


# Labels from a CSV file


def labels(text: str, folder: Path) -> tuple[list[int], tuple[str, ...] | None]:
    path = folder / "labels.csv"
    path.write_text(text)
    data = open_data(folder / "set", TINY_GRID)
    found = with_labels(data, read_labels(path, data))
    assert found.labels is not None
    return found.labels.tolist(), found.classes


def test_labels_are_numbers_or_names_and_those_that_are_not_given_are_unknown(classes: Path) -> None:
    assert labels("item,label\ncat/0.png,7\nset/dog/1.png,0\n", classes) == ([7, -1, -1, 0], None)
    assert labels("label,item\nb,cat/0.png\na,dog/0.png\n", classes) == ([1, -1, 0, -1], ("a", "b"))
    assert labels("item,label\ncat/0.png,1_0\n", classes) == ([0, -1, -1, -1], ("1_0",))  # a name, and no number


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has the columns ; expected item and label"),
        ("name,class\nx,1\n", "has the columns name, class; expected item and label"),
        ("item,label\ncat/0.png\n", "line 2 has not two values"),
        ("item,label\ncat/0.png,1,2\n", "line 2 has not two values"),
        ("item,label\ncat/0.png,1\ncat/0.png,2\n", "line 3 gives 'cat/0.png' a second label"),
        ("item,label\nbird.png,1\n", "names no item of set; its items are called 'set/cat/0.png' and so on"),
        ('item,label\n"cat/0.png,1\n', r"cannot be read \(unexpected end of data\)"),
    ],
)
def test_labels_that_cannot_be_taken_are_said(text: str, said: str, classes: Path) -> None:
    with pytest.raises(InputError, match=rf"labels\.csv: {said}"):
        labels(text, classes)


# Parquet files


def write_parquet(path: Path, numbers: range, **columns: Any) -> None:
    """Rows as Hugging Face writes them."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    cells = arrow.array([{"bytes": photo(number), "path": None} for number in numbers], kind)
    about = b'{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'
    table = arrow.table({"image": cells} | columns).replace_schema_metadata({b"huggingface": about})
    parquet.write_table(table, path, row_group_size=2)


def test_images_in_a_column_of_parquet_files_are_items_with_their_labels(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", range(3), label=[1, None, 0])
    write_parquet(tmp_path / "b.parquet", range(3, 7), label=[0, 1, 1, -1])
    data = open_data(f"{tmp_path}/*.parquet", TINY_GRID)
    assert data.labels is not None and data.labels.tolist() == [1, -1, 0, 0, 1, 1, -1]
    assert data.classes == ("cat", "dog")
    assert isinstance(data, ImageFiles) and isinstance(data.source, ParquetSource)
    assert [data.source.read(index) for index in range(7)] == [photo(number) for number in range(7)]
    assert [name.partition("/")[2] for name, _ in data.entries()][2:4] == ["a.parquet, row 2", "b.parquet, row 0"]


def test_parquet_files_without_images_or_damaged_are_named(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=r"a\.parquet: has 0 columns that may be images; expected one, or one named im"
    ):
        open_data(tmp_path / "a.parquet", TINY_GRID)
    parquet.write_table(arrow.table({"image": [None, b"x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet, row 0: has no bytes of an image in column image"):
        open_data(tmp_path / "a.parquet", TINY_GRID).read(np.array([0]))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no parquet PAR1")
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read .*; expected a parquet file with a column of im"):
        open_data(tmp_path / "a.parquet", TINY_GRID)


# An object store


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a bucket with a folder of images and a tar file, on a server of this machine."""
    server_module, boto3 = pytest.importorskip("moto.server"), pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    patch = pytest.MonkeyPatch()
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("DEFAULT_REGION", "us-east-1")):
        patch.setenv(f"AWS_{name}", value)
    store = boto3.client("s3")
    store.create_bucket(Bucket="photos")
    for number, name in enumerate(("set/cat/0.png", "set/dog/0.png", "set/dog/1.png")):
        store.put_object(Bucket="photos", Key=name, Body=photo(number))
    tar = io.BytesIO()
    tar.write(write_tar_bytes({"0.png": photo(5), "0.cls": b"3"}))
    store.put_object(Bucket="photos", Key="tars/a.tar", Body=tar.getvalue())
    yield "s3://photos"
    server.stop()
    patch.undo()


def write_tar_bytes(members: dict[str, bytes]) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return write_tar(Path(folder) / "a.tar", members).read_bytes()


def test_an_object_store_is_read_like_a_folder(bucket: str) -> None:
    data = open_data(f"{bucket}/set", TINY_GRID)
    assert [name for name, _ in data.entries()] == ["set/cat/0.png", "set/dog/0.png", "set/dog/1.png"]
    assert data.labels is not None and data.labels.tolist() == [0, 1, 1] and data.classes == ("cat", "dog")
    assert data.read(np.arange(3)).shape == (3, 16, 16, 3)
    assert names(f"{bucket}/set/dog/*.png") == ["dog/0.png", "dog/1.png"]
    tars = open_data(f"{bucket}/tars/*.tar", TINY_GRID)
    assert tars.labels is not None and tars.labels.tolist() == [3] and len(tars.read(np.array([0]))) == 1


def test_what_an_object_store_does_not_have_is_said(bucket: str) -> None:
    with pytest.raises(InputError, match="s3://photos/none: no such file or folder, or nothing in it"):
        open_data(f"{bucket}/none", TINY_GRID)
    with pytest.raises(InputError, match=r"s3://none/x: .*(cannot be listed|no such file)"):
        open_data("s3://none/x", TINY_GRID)
    with (
        pytest.raises(SourceError, match=r"s3://photos/gone\.png: cannot be read \(.*\); expected the file that was"),
        open_file(f"{bucket}/gone.png") as file,
    ):
        file.read()


def items_of(path: str) -> list[tuple[str, int, str]]:
    """Names, labels and hashes of what :func:`open_data` reads there, for a process of the Hub's client."""
    data = open_data(path, TINY_GRID)
    assert data.labels is not None
    pixels = [data.read(np.array([index])) for index in range(len(data))]
    found = zip(data.entries(), data.labels.tolist(), pixels, strict=True)
    return [(name, label, hashlib.sha256(pixel.tobytes()).hexdigest()) for (name, _), label, pixel in found]


def test_a_dataset_on_the_hub_is_read_like_a_folder(tmp_path: Path) -> None:
    files = {f"set/{name}.png": photo(number) for number, name in enumerate(("cat/0", "dog/0", "dog/1"))}
    write_folder(tmp_path, files)
    hub = LocalHub()
    try:
        hub.commit("org/photos", {"README.md": b"# Photos", **files})
        with client_process(hub.url, tmp_path / "home") as client:
            found = client(items_of, "hf://datasets/org/photos/set")
            with pytest.raises(InputError, match="hf://datasets/org/none/set: "):
                client(items_of, "hf://datasets/org/none/set")
    finally:
        hub.stop()
    assert found == items_of(str(tmp_path / "set")) and [label for _, label, _ in found] == [0, 1, 1]


def test_any_other_store_that_fsspec_knows_is_read(classes: Path) -> None:
    store = pytest.importorskip("fsspec").filesystem("memory")
    store.put(str(classes / "set"), "/photos/set", recursive=True)
    assert items_of("memory://photos/set") == items_of(str(classes / "set"))
    assert names("memory://photos/set/*/1.png") == ["set/cat/1.png", "set/dog/1.png"]


def test_an_address_of_no_known_kind_is_refused() -> None:
    with pytest.raises(InputError, match=r"xyz://a/b: .*expected a file, a folder, or an address such as s3://"):
        list_files("xyz://a/b")


def test_listing_and_reading_may_be_done_by_several_threads(classes: Path) -> None:
    source = open_files(list_files(str(classes / "a.tar")), base_of(str(classes / "a.tar")), "a.tar")
    found = list[bytes]()
    threads = [threading.Thread(target=lambda: found.append(source.read(1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [photo(1)] * 4
