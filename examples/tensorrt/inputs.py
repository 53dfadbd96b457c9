"""Real inputs for int8 on TensorRT: ``source = "python:inputs.py:photographs"`` and so on.

================ =========================================================== =======================================
function         inputs                                                      model
================ =========================================================== =======================================
``photographs``  crops of scikit-image's photographs, as open_nsfw wants     ``input:0`` [1, 224, 224, 3], float32
``normalized``   the same crops, as ImageNet's classifiers want              ``input`` [1, 3, 224, 224], float32
``signs``        letters drawn onto photographs, as picture puzzles do       ``images`` [1, 3, 416, 416], float32
================ =========================================================== =======================================

All need scikit-image (for its pictures) and Pillow. Each gives the same for the same ``seed``. Calibration and
validation never share a photograph, nor, in ``signs``, a letter.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Image = np.ndarray[Any, Any]
Feeds = dict[str, Image]

PHOTOGRAPHS = {
    "calibration": ("astronaut.png", "chelsea.png", "hubble_deep_field.jpg", "motorcycle_left.png"),
    "validation": ("coffee.png", "rocket.jpg", "ihc.png", "retina.jpg"),
}
LETTERS = {"calibration": "BDFHJLNPRTVXZ2468", "validation": "ACEGKMQSUWY3579"}

CAFFE_MEAN = np.array([104, 117, 123], np.float32)
"""Blue, green and red: what open_nsfw's preprocessing takes off."""
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
"""Red, green and blue, of values from 0 to 1: torchvision's."""


def photographs(limit: int = 24, seed: int = 0, split: str = "validation") -> Iterator[Feeds]:
    """Yield crops as BGR minus the mean, channels last: ``input:0`` [1, 224, 224, 3]."""
    for crop in _crops(limit, seed, split, 224):
        yield {"input:0": (crop[np.newaxis, :, :, ::-1] - CAFFE_MEAN).astype(np.float32)}


def normalized(limit: int = 24, seed: int = 0, split: str = "validation") -> Iterator[Feeds]:
    """Yield crops as RGB of mean 0 and deviation 1, channels first: ``input`` [1, 3, 224, 224]."""
    for crop in _crops(limit, seed, split, 224):
        scaled = (crop / np.float32(255) - IMAGENET_MEAN) / IMAGENET_DEVIATION
        yield {"input": scaled.transpose(2, 0, 1)[np.newaxis].astype(np.float32)}


def signs(limit: int = 24, seed: int = 0, split: str = "validation") -> Iterator[Feeds]:
    """Yield photographs with three to five letters on them, RGB from 0 to 255: ``images`` [1, 3, 416, 416]."""
    draw = np.random.default_rng([seed, split == "calibration", 2])
    for crop in _crops(limit, seed, split, 416):
        picture = _with_letters(draw, crop, LETTERS[split])
        yield {"images": picture.transpose(2, 0, 1)[np.newaxis].astype(np.float32)}


def _crops(limit: int, seed: int, split: str, side: int) -> Iterator[Image]:
    """Cut squares of many sizes out of a split's photographs in turn, one in two mirrored: [side, side, RGB], uint8."""
    from PIL import Image as Pictures

    draw = np.random.default_rng([seed, split == "calibration", 1])
    pictures = [_picture(name) for name in PHOTOGRAPHS[split]]
    for number in range(limit):
        picture = pictures[number % len(pictures)]
        height, width = picture.shape[:2]
        size = int(min(height, width) * draw.uniform(0.45, 1.0))
        top, left = int(draw.integers(0, height - size + 1)), int(draw.integers(0, width - size + 1))
        square = picture[top : top + size, left : left + size]
        if draw.random() < 0.5:
            square = square[:, ::-1]
        scaled = Pictures.fromarray(np.ascontiguousarray(square)).resize((side, side), Pictures.Resampling.BILINEAR)
        yield np.asarray(scaled)


def _with_letters(draw: np.random.Generator, crop: Image, letters: str) -> Image:
    """Draw letters of several sizes, colours and angles into different cells of a grid of three by three."""
    from PIL import Image as Pictures
    from PIL import ImageDraw, ImageFont

    picture = Pictures.fromarray(crop)
    for cell in draw.permutation(9)[: int(draw.integers(3, 6))]:
        size = int(draw.integers(48, 84))
        letter = letters[int(draw.integers(len(letters)))]
        mask = Pictures.new("L", (120, 120))
        font = ImageFont.load_default(size)
        ImageDraw.Draw(mask).text((60, 60), letter, font=font, fill=255, anchor="mm", stroke_width=2)
        mask = mask.rotate(float(draw.uniform(-35, 35)), Pictures.Resampling.BICUBIC)
        colour = tuple(int(value) for value in draw.integers(0, 256, 3))
        corner = (int(cell % 3) * 138 + int(draw.integers(0, 19)), int(cell // 3) * 138 + int(draw.integers(0, 19)))
        picture.paste(colour, corner, mask)
    return np.asarray(picture)


def _picture(name: str) -> Image:
    """Load one of scikit-image's pictures as RGB: [height, width, 3], uint8, without importing the package."""
    from PIL import Image as Pictures

    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            'scikit-image is not installed: add requires = ["scikit-image==0.25.2"] to the dataset in matrix.toml'
        )
    with Pictures.open(Path(next(iter(spec.submodule_search_locations))) / "data" / name) as picture:
        return np.asarray(picture.convert("RGB"))
