"""Anything image-like becomes uint8 (H, W, C)."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daps_tokenizer.images.load import load_images, to_pil
from tests.images.helpers import load_one, noise, picture, refusal

# Paths


def test_a_file_is_read_by_str_and_by_path(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    to_pil(picture()).save(file)
    np.testing.assert_array_equal(load_one(file), picture())
    np.testing.assert_array_equal(load_one(str(file)), picture())


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp", "jpg"])
def test_common_formats_are_read(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"photo.{suffix}"
    to_pil(picture()).save(file, **({"lossless": True} if suffix == "webp" else {}))
    tolerance = 12 if suffix == "jpg" else 0
    np.testing.assert_allclose(load_one(file).astype(int), picture().astype(int), atol=tolerance)


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    assert load_one(tmp_path / "moving.gif")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff"])
def test_every_exif_orientation_gives_the_same_upright_picture(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = to_pil(picture(16, 32))
    turn = Image.Transpose  # how a camera held in this way would have stored the picture
    stored = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_90,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_270,
    }
    image = upright.transpose(stored[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"photo.{suffix}"
    image.save(file, exif=exif)
    tolerance = 6 if suffix == "jpg" else 0
    for source in (file, Image.open(file)):
        np.testing.assert_allclose(load_one(source).astype(int), picture(16, 32).astype(int), atol=tolerance)


# PIL modes


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_white_is_white_in_every_pil_mode(mode: str, channels: int) -> None:
    white = Image.new("RGB", (5, 4), "white")
    if mode in ("La", "PA"):  # Pillow leads there only by these ways
        image = white.convert("LA").convert("La") if mode == "La" else white.convert("P").convert("PA")
    elif mode == "RGBa":
        image = white.convert("RGBA").convert("RGBa")
    elif mode == "LAB":
        image = Image.new("LAB", (5, 4), (255, 128, 128))  # a and b are kept with an offset of 128
    else:
        image = white.convert(mode)
    pixels = load_one(image, channels=channels)
    assert image.mode == mode and pixels.shape == (4, 5, channels)
    assert pixels.min() >= 254


@pytest.mark.parametrize("mode", ["P", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_colours_survive_the_conversion_from_other_modes(mode: str) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]]], np.uint8)
    pixels = load_one(to_pil(colours).convert(mode))
    np.testing.assert_allclose(pixels.astype(int), colours.astype(int), atol=3)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "RGBa", "La"])
def test_half_transparent_black_over_white_is_mid_grey(mode: str) -> None:
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    image = image.convert("LA").convert("La") if mode == "La" else image.convert(mode)
    assert load_one(image)[0, 0].tolist() == [127, 127, 127]


@pytest.mark.parametrize(("mode", "transparent"), [("P", 0), ("L", 7), ("1", 0), ("RGB", (1, 2, 3)), ("I;16", 300)])
def test_a_colour_declared_transparent_in_a_png_becomes_white(tmp_path: Path, mode: str, transparent: object) -> None:
    image = Image.new(mode, (2, 1), transparent)  # type: ignore[arg-type]
    image.putpixel((1, 0), 1 if mode in "1P" else (0, 0, 0) if mode == "RGB" else 0)
    if mode == "P":
        image.putpalette([9, 9, 9, 0, 0, 0])
    image.save(tmp_path / "icon.png", transparency=transparent)
    pixels = load_one(tmp_path / "icon.png", channels=1)
    assert pixels.ravel().tolist() == [255, 255 if mode == "1" else 0]


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_greyscale_is_scaled_to_8_bits(tmp_path: Path, suffix: str, channels: int) -> None:
    levels = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / f"scan.{suffix}")
    pixels = load_one(tmp_path / f"scan.{suffix}", channels=channels)
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]  # round(level / 257)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_16_bit_modes_are_read_whatever_their_byte_order(mode: str) -> None:
    assert load_one(Image.new(mode, (3, 2), 257 * 100), channels=1)[0, 0, 0] == 100


@pytest.mark.parametrize(("mode", "kind"), [("I", "32-bit integer"), ("F", "floating-point")])
def test_pixels_without_an_agreed_range_are_refused(mode: str, kind: str) -> None:
    message = refusal(Image.new(mode, (3, 2)))
    assert message.startswith(f"the image: {kind} pixels") and "expected 8-bit pixels or 16-bit greyscale" in message


def test_greyscale_and_rgb_are_converted_into_each_other_as_pillow_does() -> None:
    grey, colour = noise(9, 8, 1), noise(9, 8, 3)
    np.testing.assert_array_equal(load_one(grey, channels=3), np.repeat(grey, 3, axis=-1))
    np.testing.assert_array_equal(load_one(colour, channels=1)[..., 0], np.asarray(to_pil(colour).convert("L")))
    np.testing.assert_array_equal(load_one(to_pil(grey), channels=1), grey)


def test_the_callers_image_is_left_as_it_was() -> None:
    image = Image.new("RGBA", (3, 2), (10, 20, 30, 40))
    image.getexif()[0x0112] = 6
    assert load_one(image).shape == (3, 2, 3)
    assert image.size == (3, 2) and image.getpixel((0, 0)) == (10, 20, 30, 40) and image.getexif()[0x0112] == 6


# Arrays and tensors


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 3), (8, 9, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_array_is_one_image(shape: tuple[int, ...], channels: int) -> None:
    assert load_one(noise(*shape), channels=channels).shape == (8, 9, channels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_batched_array_is_as_many_images(channels: int) -> None:
    batch = noise(5, 8, 9, channels)
    images = load_images(batch, channels=3)
    assert len(images) == 5
    np.testing.assert_array_equal(images[2], load_one(batch[2]))


def test_an_array_that_needs_no_conversion_keeps_its_pixels() -> None:
    np.testing.assert_array_equal(load_one(noise(8, 9, 3)), noise(8, 9, 3))
    np.testing.assert_array_equal(load_one(noise(8, 9, 3)[::-1, ::2]), noise(8, 9, 3)[::-1, ::2])


def test_the_alpha_of_an_array_is_laid_over_white() -> None:
    pixels = np.array([[[0, 0, 0, 0], [10, 20, 30, 255]]], np.uint8)
    assert load_one(pixels).tolist() == [[[255, 255, 255], [10, 20, 30]]]


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_and_tensors_may_have_channels_first_or_last(channels: int) -> None:
    torch = pytest.importorskip("torch")
    batch = noise(5, 8, 9, channels)
    first = batch.transpose(0, 3, 1, 2)
    for images in (batch, first, torch.from_numpy(batch), torch.from_numpy(first)):
        np.testing.assert_array_equal(load_images(images, channels=channels), batch)
        np.testing.assert_array_equal(load_one(images[0], channels=channels), batch[0])
    np.testing.assert_array_equal(load_one(torch.from_numpy(batch)[0, :, :, 0], channels=1), batch[0, :, :, :1])


def test_three_grey_images_are_not_taken_for_one_in_colour() -> None:
    torch = pytest.importorskip("torch")
    for images in (noise(3, 28, 28), torch.from_numpy(noise(3, 28, 28))):
        message = refusal(images, channels=1)
        assert "(3, 28, 28) can be read as 3 images (H, W) or as one with channels first" in message
        assert message.endswith("expected (B, H, W, 1) or (1, C, H, W)")
    assert len(load_images(noise(3, 28, 28)[..., None], channels=1)) == 3


def test_a_tensor_with_two_possible_readings_is_refused() -> None:
    torch = pytest.importorskip("torch")
    message = refusal(torch.zeros((3, 32, 3), dtype=torch.uint8))
    assert "(3, 32, 3) can be read with channels first or last; expected a PIL image, or a NumPy array" in message
    np.testing.assert_array_equal(load_one(noise(3, 32, 3)), noise(3, 32, 3))


# Floating-point numbers


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value_range", [(0, 1), (-1, 1), (0, 255), (-0.25, 0.5)])
def test_every_level_comes_back_from_floating_point_numbers(dtype: str, value_range: tuple[float, float]) -> None:
    torch = pytest.importorskip("torch")
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    black, white = value_range
    floats = (levels / 255 * (white - black) + black).astype(dtype)
    for images in (floats, floats.transpose(0, 3, 1, 2), torch.from_numpy(floats), floats[0, ..., 0]):
        (pixels,) = load_images(images, channels=1, value_range=value_range)
        np.testing.assert_array_equal(pixels, levels[0])


def test_bfloat16_becomes_the_nearest_level() -> None:
    torch = pytest.importorskip("torch")
    floats = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.bfloat16)
    assert load_images(floats, channels=1, value_range=(0, 1))[0].ravel().tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("least", "most", "likely"), [(0.0, 1.0, "(0, 1)"), (-0.5, 1.0, "(-1, 1)"), (0.0, 254.0, "(0, 255)")]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_floating_point_numbers_without_a_range_are_refused_with_the_line_to_write(
    least: float, most: float, likely: str, dtype: str
) -> None:
    torch = pytest.importorskip("torch")
    message = refusal(torch.tensor([[least, most]], dtype=getattr(torch, dtype)))
    assert message == (
        f"the image: dtype is {dtype}, with values from {least:g} to {most:g}; expected uint8 with values 0..255, or "
        f"the values of black and white: write tok.encode(images, value_range={likely})"
    )


@pytest.mark.parametrize(
    ("image", "value_range", "message"),
    [
        (np.array([[0.0, 1.5]]), (0, 1), "the image: values from 0 to 1.5 are outside value_range=(0, 1); clip them"),
        (np.array([[-0.1, 1.0]]), (0, 1), "the image: values from -0.1 to 1 are outside value_range=(0, 1); clip them"),
        (np.array([[0.0, np.nan]]), (0, 1), "the image: holds numbers that are not finite; expected pixels"),
        (np.array([[0.0, np.inf]]), None, "the image: holds numbers that are not finite; expected pixels"),
        (noise(4, 4), (0, 1), "the image: dtype is uint8, whose values are 0..255; leave value_range out"),
        (noise(4, 4), (1, 0), "value_range must be the values of black and of white, such as (0, 1) or (-1, 1)"),
        (noise(4, 4), (0, np.inf), "value_range must be the values of black and of white"),
        (noise(4, 4), 1.0, "value_range must be the values of black and of white"),
        (noise(4, 4), (-1e308, 1e308), "value_range must be the values of black and of white"),
        (noise(4, 4), (0, 5e-324), "value_range must be the values of black and of white"),
        (noise(4, 4), "01", "value_range must be the values of black and of white"),
    ],
)
def test_values_and_ranges_that_do_not_fit_are_refused(image: np.ndarray, value_range: object, message: str) -> None:
    assert refusal(image, value_range=value_range).startswith(message)


def test_numbers_of_another_byte_order_are_the_same_numbers() -> None:
    floats = np.array([[0.0, 0.5, 1.0]], ">f4")
    assert load_images(floats, channels=1, value_range=(0, 1))[0].ravel().tolist() == [0, 128, 255]


def test_a_value_just_outside_that_rounds_to_a_level_is_that_level() -> None:
    almost = np.array([[-0.001, 1.001]], np.float32)
    assert load_images(almost, channels=1, value_range=(0, 1))[0].ravel().tolist() == [0, 255]


def test_files_and_pictures_in_a_list_with_floating_point_numbers_keep_their_own_range() -> None:
    images = [picture() / 255, to_pil(picture())]
    for pixels in load_images(images, channels=3, value_range=(0, 1)):
        np.testing.assert_array_equal(pixels, picture())


@pytest.mark.parametrize("dtype", ["int64", "bool", "int8"])
def test_tensors_of_another_dtype_are_refused(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    message = refusal(torch.zeros((3, 32, 32), dtype=getattr(torch, dtype)))
    assert message == f"the image: dtype is {dtype}; expected uint8 with values 0..255"


@pytest.mark.parametrize("dtype", ["int32", "uint16", "bool", "object", "complex64"])
def test_arrays_of_another_dtype_are_refused(dtype: str) -> None:
    message = refusal(np.zeros((32, 32, 3), dtype))
    assert message == f"the image: dtype is {dtype}; expected uint8 with values 0..255"


@pytest.mark.parametrize("shape", [(), (9,), (5, 32, 32), (8, 9, 2), (2, 5, 32, 32), (1, 1, 8, 9, 3)])
def test_arrays_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    message = refusal(np.zeros(shape, np.uint8))
    assert f"shape {shape} is not that of images; expected (H, W), (H, W, C) or (B, H, W, C)" in message


@pytest.mark.parametrize("shape", [(0, 5), (5, 0, 3), (0, 8, 0, 3), (2, 8, 0, 1)])
def test_empty_arrays_are_refused(shape: tuple[int, ...]) -> None:
    assert refusal(np.zeros(shape, np.uint8)).startswith(f"the image: is empty, shape {shape}; expected")


# Lists


def test_a_list_may_mix_everything(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    to_pil(picture()).save(file)
    images = load_images([file, str(file), Image.open(file), picture(), noise(2, 8, 9, 1)], channels=3)
    assert [image.shape for image in images] == [(12, 16, 3)] * 4 + [(8, 9, 3)] * 2
    for image in images[:4]:
        np.testing.assert_array_equal(image, picture())


def test_a_tuple_is_a_list_too() -> None:
    assert len(load_images((picture(), picture()), channels=1)) == 2


def test_an_empty_list_and_an_empty_batch_are_no_images() -> None:
    for nothing in ([], (), noise(0, 8, 9, 3), noise(0, 3, 8, 9)):
        assert load_images(nothing, channels=3) == []


def test_an_error_names_the_place_in_the_list_counted_from_one() -> None:
    message = refusal([picture(), picture(), np.zeros((8, 9, 3))])
    assert message.startswith("image 3 of the list: dtype is float64, with values from 0 to 0; expected uint8")


def test_an_error_names_the_file_where_the_list_has_one(tmp_path: Path) -> None:
    assert refusal([picture(), tmp_path / "none.png"]).startswith(f"{tmp_path / 'none.png'}: no such file")


@pytest.mark.parametrize("value", [None, 3, {"image": 1}, np.uint8(3)])
def test_other_types_are_refused_with_what_is_accepted(value: object) -> None:
    expected = "a path, a file's bytes, a file opened in binary mode, a PIL image, an array or tensor, or a list of"
    assert refusal(value) == f"the image: expected {expected} these, not {type(value).__name__}"


def test_a_list_in_a_list_is_refused() -> None:
    assert refusal([[picture()]]).startswith("image 1 of the list: expected a path") and "not list" in refusal([[1]])
