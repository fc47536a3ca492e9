"""Files and what may be wrong with them; bringing images to size, and back to PIL."""

import io
import os
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from daps_tokenizer.errors import InputError
from daps_tokenizer.images import load
from daps_tokenizer.images.formats import webp_pixels
from daps_tokenizer.images.load import Fitted, fit_image, load_images, to_pil
from tests.images.helpers import load_one, noise, picture, refusal

# Open files


def png_bytes() -> bytes:
    buffer = io.BytesIO()
    to_pil(picture()).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_open_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png_bytes())
    with (tmp_path / "photo.png").open("rb") as file:
        np.testing.assert_array_equal(load_one(file), picture())
    for content in (io.BytesIO(png_bytes()), png_bytes(), bytearray(png_bytes()), memoryview(png_bytes())):
        np.testing.assert_array_equal(load_one(content), picture())


def test_an_open_file_is_read_from_where_it_stands() -> None:
    file = io.BytesIO(b"header" + png_bytes())
    file.seek(6)
    np.testing.assert_array_equal(load_one(file), picture())


def test_a_pipe_is_read() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as writer:
        writer.write(png_bytes())
    with os.fdopen(read_end, "rb") as reader:
        np.testing.assert_array_equal(load_one(reader), picture())


def test_an_open_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(b"no image")
    with file.open("rb") as opened:
        assert refusal(opened).startswith(f"{file}: not an image")
    assert refusal([picture(), io.BytesIO(b"")]) == "image 2 of the list: is empty, 0 bytes; expected an image"


def test_a_file_opened_as_text_or_closed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(png_bytes())
    for encoding in ("utf-8", "latin-1"):
        with file.open(encoding=encoding) as opened:
            assert refusal(opened) == f"{file}: is opened as text; expected a file opened in binary mode"
    with file.open("rb") as opened:
        pass
    assert refusal(opened).startswith(f"{file}: cannot be read as an image (read of closed file)")


# Files that are no images


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path / "none.png")
    assert message == f"{tmp_path / 'none.png'}: no such file; expected the path of an image"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: is a folder; expected the path of an image"


@pytest.mark.parametrize("content", [b"just text", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_a_file_that_is_not_an_image_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "notes.png"
    file.write_bytes(content)
    message = refusal(file)
    assert message.startswith(f"{file}: not an image, or its beginning is damaged; expected PNG, JPEG, WebP")


def test_a_path_that_no_file_can_have_is_refused() -> None:
    assert refusal("x" * 5000).endswith("x: cannot be read (File name too long); expected the path of an image")
    assert "cannot be read as an image" in refusal("photo\0.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp"])
def test_a_truncated_file_is_refused_by_path_and_as_a_lazily_opened_image(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"photo.{suffix}"
    to_pil(noise(64, 64, 3)).save(file)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    assert refusal(file).startswith(f"{file}: ")
    if suffix != "webp":  # whose header alone does not open
        assert refusal([Image.open(file)]).startswith("image 1 of the list: cannot be read as an image (")


@given(cut=st.integers(0, 2000), place=st.integers(0, 2000), value=st.integers(0, 255))
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "GIF", "TIFF"])
@pytest.mark.filterwarnings("ignore")  # Pillow's own remarks about damaged metadata
def test_a_damaged_file_gives_an_image_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, cut: int, place: int, value: int
) -> None:
    buffer = io.BytesIO()
    to_pil(picture()).save(buffer, suffix)
    content = bytearray(buffer.getvalue())
    content[place % len(content)] = value
    file = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
    file.write_bytes(content[: 1 + cut])
    try:
        load_one(file)
    except InputError as error:
        assert str(error).startswith(f"{file}: ")


# Only some formats, and only regular files


@pytest.mark.parametrize("suffix", ["eps", "ico", "pcx", "tga", "sgi", "j2k"])
def test_a_format_that_is_not_listed_is_refused_whatever_the_file_is_called(tmp_path: Path, suffix: str) -> None:
    to_pil(picture(16, 16)).save(tmp_path / f"photo.{suffix}")
    file = (tmp_path / f"photo.{suffix}").rename(tmp_path / "photo.png")
    expected = "not an image, or its beginning is damaged; expected PNG, JPEG, WebP, GIF, BMP, TIFF, PPM, AVIF or HEIC"
    assert refusal(file) == f"{file}: {expected}"
    assert refusal(file.read_bytes()) == f"the image: {expected}"


def test_a_pipe_or_a_device_by_its_path_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "device.png"):
        assert refusal(tmp_path / name).endswith(
            f"{name}: cannot be read (not a regular file); expected the path of an image"
        )


def test_a_sparse_file_of_ten_gigabytes_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "photo.webp").open("wb") as file:
        file.write(b"RIFF\0\0\0\x80WEBPVP8 ")
        file.truncate(10**10)
    assert "cannot be read (larger than 536,870,912 bytes)" in refusal(tmp_path / "photo.webp")


# Memory


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "I;16", "P"])
def test_strips_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(noise(31, 16, 4)).convert("P" if mode == "P" else "L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 200)
    image.save(tmp_path / "photo.png")
    whole = load_one(tmp_path / "photo.png")
    monkeypatch.setattr(load, "_STRIP", 40)  # pixels
    np.testing.assert_array_equal(load_one(tmp_path / "photo.png"), whole)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_large_image_that_is_to_be_fitted_is_halved_while_it_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str
) -> None:
    to_pil(picture(64, 96)).save(tmp_path / f"photo.{suffix}", quality=95)
    fitted = Fitted(8, 8, "crop")
    (whole,) = load_images(tmp_path / f"photo.{suffix}", channels=3, fitted=fitted)
    monkeypatch.setattr(load, "_LARGE", 1000)
    (halved,) = load_images(tmp_path / f"photo.{suffix}", channels=3, fitted=fitted)
    np.testing.assert_allclose(halved.astype(int), whole.astype(int), atol=3)
    assert load_images(tmp_path / f"photo.{suffix}", channels=3)[0].shape == (64, 96, 3)  # tiles keep every pixel


def test_threads_that_read_large_images_wait_for_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    to_pil(picture(40, 50)).save(tmp_path / "photo.png")
    monkeypatch.setattr(load, "_MEMORY_AT_ONCE", 40 * 50 * 5 * 2)
    in_flight, most = load._in_flight, 0
    convert = load._convert

    def watched(*arguments: object) -> np.ndarray:
        nonlocal most
        most = max(most, in_flight._bytes)
        return convert(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(load, "_convert", watched)
    with ThreadPoolExecutor(8) as threads:
        for pixels in threads.map(load_one, [tmp_path / "photo.png"] * 40):
            np.testing.assert_array_equal(pixels, picture(40, 50))
    assert 0 < most <= 40 * 50 * 5 * 2 and in_flight._bytes == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_is_forked_while_a_thread_reads_an_image_reads_images() -> None:
    with load._in_flight.warning_filters, load._in_flight.reserved(10**10):  # as a thread holds them
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)  # which ends it where it waits for a lock that nobody releases
            os._exit(0 if load_one(png_bytes()).shape == (12, 16, 3) else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_formats_whose_decoders_take_more_memory_have_a_lower_limit(tmp_path: Path) -> None:
    Image.new("L", (60, 61)).save(tmp_path / "flat.webp")
    content = bytearray((tmp_path / "flat.webp").read_bytes())
    content[26:30] = np.array([6100, 6100], "<u2").tobytes()  # what its header claims
    (tmp_path / "flat.webp").write_bytes(content)
    assert refusal(tmp_path / "flat.webp").endswith("flat.webp: has more pixels than the limit of 36,842,105")


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}])
def test_the_size_of_a_webp_is_known_before_pillow_opens_it(options: dict[str, object]) -> None:
    buffer = io.BytesIO()
    to_pil(noise(30, 50, 3)).save(buffer, "WEBP", **options)
    buffer.seek(0)
    assert webp_pixels(buffer) == 1500 and buffer.tell() == 0
    assert webp_pixels(io.BytesIO(png_bytes())) == 0


# The pixel limit


def test_an_image_over_the_pixel_limit_is_refused_wherever_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    to_pil(picture(12, 16)).save(file)
    assert load_images(file, channels=3, max_pixels=192)
    for image in (file, Image.open(file), picture(12, 16)):
        assert "16×12 are 192 pixels, more than the limit of 191" in refusal(image, max_pixels=191)
    assert refusal(file, max_pixels=191).startswith(f"{file}: ")


def header_of_a_bmp(width: int, height: int) -> bytes:
    """A file that claims a size and holds no pixels: whoever decodes it fails in another way."""
    header = np.array([width, height], "<i4").tobytes() + b"\1\0\x18\0" + bytes(24)
    return b"BM" + np.array([54, 0, 54, 40], "<u4").tobytes() + header


@pytest.mark.parametrize("side", [12_000, 30_000])  # above Pillow's warning, above Pillow's error
def test_the_limit_holds_before_decoding_and_pillows_own_alarm_stays_silent(tmp_path: Path, side: int) -> None:
    file = tmp_path / "bomb.bmp"
    file.write_bytes(header_of_a_bmp(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = refusal(file)
    assert message.startswith(f"{file}: ") and "pixels" in message and "limit of 134,217,728" in message


def test_between_pillows_two_limits_an_image_is_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "photo.png"
    to_pil(picture(12, 16)).save(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow warns from here and refuses from twice as many
        assert load_one(file).shape == (12, 16, 3)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
        assert refusal(file) == f"{file}: has more pixels than the limit of 100"


def test_an_image_without_pixels_is_refused() -> None:
    assert "is empty, 0×5 pixels; expected at least one pixel" in refusal(Image.new("RGB", (0, 5)))


# Bringing to size


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_an_image_of_the_right_size_is_returned_as_it_is(fit: str) -> None:
    image = noise(12, 16, 3)
    assert fit_image(image, 12, 16, fit=fit) is image  # type: ignore[arg-type]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(50, 40, 3), (5, 7, 1), (1, 300, 3), (300, 1, 3), (1, 1, 1), (33, 32, 3)])
def test_every_fit_gives_the_size_asked_for_and_keeps_a_flat_colour(fit: str, shape: tuple[int, ...]) -> None:
    image = fit_image(np.full(shape, 77, np.uint8), 32, 24, fit=fit)  # type: ignore[arg-type]
    assert image.shape == (32, 24, shape[-1]) and image.dtype == np.uint8
    assert (image == 77).all()


def test_crop_keeps_the_centre() -> None:
    image = np.zeros((40, 120, 1), np.uint8)
    image[:, 40:80] = 200  # the middle third of a wide picture
    assert fit_image(image, 20, 20, fit="crop")[:, 1:-1].min() > 190
    np.testing.assert_array_equal(
        fit_image(np.swapaxes(image, 0, 1), 20, 20, fit="crop"), np.swapaxes(fit_image(image, 20, 20, fit="crop"), 0, 1)
    )


@pytest.mark.parametrize("width", [35, 36])
def test_crop_does_not_resample_where_it_need_not_scale(width: int) -> None:
    image = noise(32, width, 3)
    left = (width - 32) // 2
    np.testing.assert_array_equal(fit_image(image, 32, 32, fit="crop"), image[:, left : left + 32])


def test_pad_keeps_the_whole_image_and_repeats_its_edge() -> None:
    image = noise(32, 20, 3)
    padded = fit_image(image, 32, 33, fit="pad")
    np.testing.assert_array_equal(padded[:, 6:26], image)
    np.testing.assert_array_equal(padded[:, :6], np.repeat(image[:, :1], 6, axis=1))
    np.testing.assert_array_equal(padded[:, 26:], np.repeat(image[:, -1:], 7, axis=1))


def test_stretch_keeps_the_corners_of_the_image() -> None:
    quarters = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((20, 30), np.uint8))[..., None]
    corners = fit_image(quarters, 16, 16, fit="stretch")[[0, 0, -1, -1], [0, -1, 0, -1], 0]
    np.testing.assert_allclose(corners.astype(int), [0, 80, 160, 240], atol=2)


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 255
    for fit in ("crop", "pad", "stretch"):
        np.testing.assert_allclose(fit_image(stripes, 8, 8, fit=fit).astype(int), 128, atol=8)  # type: ignore[arg-type]


def test_an_unknown_fit_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="fit must be one of crop, pad, stretch, not 'squeeze'"):
        fit_image(picture(), 8, 8, fit="squeeze")  # type: ignore[arg-type]


# Back to PIL


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_an_array_becomes_a_pil_image_and_comes_back(channels: int, mode: str) -> None:
    image = to_pil(noise(5, 7, channels))
    assert image.mode == mode and image.size == (7, 5)
    np.testing.assert_array_equal(load_one(image, channels=channels), noise(5, 7, channels))


@pytest.mark.parametrize("image", [noise(5, 7), noise(5, 7, 4), noise(2, 5, 7, 3), noise(5, 7, 3).astype(float)])
def test_an_array_that_is_no_image_does_not_become_one(image: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"the image: .* expected"):
        to_pil(image)
