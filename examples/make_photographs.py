"""Make ``coffee.webp``, ``astronaut.webp`` and ``rocket.webp`` of the photographs in scikit-image's data folder.

``python examples/make_photographs.py FOLDER``, where FOLDER is ``skimage/data`` of an installed or unpacked
scikit-image 0.26. The photographs stay whole and of their size; only the files get smaller.
"""

import sys
from pathlib import Path

from PIL import Image

NAMES = {"coffee.png": "coffee.webp", "astronaut.png": "astronaut.webp", "rocket.jpg": "rocket.webp"}

source = Path(sys.argv[1])
for original, smaller in NAMES.items():
    with Image.open(source / original) as photo:
        photo.convert("RGB").save(Path(__file__).parent / smaller, quality=90, method=6)
