"""Draw ten digits of each class with a generator of the package: `python examples/generate.py digits.png`."""

import sys

from PIL import Image

from daps_tokenizer import Generator, Tokenizer

generator = Generator.from_pretrained("daps-mnist-flow")
tokenizer = Tokenizer.from_pretrained(generator.tokenizer.name)
codes = generator.sample(generator.labels, num_samples=10, seed=0)  # (100, 8), ten of each label
digits = tokenizer.decode(codes).reshape(10, 10, 28, 28)
Image.fromarray(digits.swapaxes(1, 2).reshape(280, 280)).save(sys.argv[1])
