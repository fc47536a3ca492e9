"""Draw ``digit.png``: a 28×28 digit in the manner of MNIST, white on black, made of two strokes."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

SCALE = 8

canvas = Image.new("L", (28 * SCALE, 28 * SCALE), 0)
pen = ImageDraw.Draw(canvas)
pen.arc([8 * SCALE, 4 * SCALE, 19 * SCALE, 14 * SCALE], start=170, end=90, fill=255, width=int(2.4 * SCALE))
pen.arc([7 * SCALE, 12 * SCALE, 20 * SCALE, 24 * SCALE], start=270, end=170, fill=255, width=int(2.4 * SCALE))
digit = canvas.filter(ImageFilter.GaussianBlur(SCALE / 2)).resize((28, 28), Image.Resampling.LANCZOS)
digit.save(Path(__file__).parent / "digit.png")
