"""Real inputs for the default matrix's models: ``source = "python:examples/default/inputs.py:cls"`` and so on.

=========== =================================================================== ============================== =========
function    inputs                                                              label                          requires
=========== =================================================================== ============================== =========
``cls``     lines of a photographed page (scikit-image) and rendered lines      1 when turned by 180°, else 0  see below
``det``     a photographed page, handwriting, rendered pages and signs          none                           see below
``vad``     spoken letters and digits (captcha's recordings), pauses, noises    1 when somebody speaks, else 0 captcha
``magika``  files of the Python installation                                    index of the file's kind       nothing
=========== =================================================================== ============================== =========

``cls`` and ``det`` need scikit-image (for its pictures) and Pillow. Each function yields ``(feeds, label)``, gives the
same for the same ``seed``, and keeps calibration and validation apart: they never share a line of text, a recording or
a file. Preprocessing is what the models were trained with.
"""

from __future__ import annotations

import importlib.util
import sysconfig
import wave
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Sample = tuple[dict[str, np.ndarray[Any, Any]], Any]
Image = np.ndarray[Any, Any]

SENTENCES = (
    "The quick check runs first and the long one after it",
    "Bread, butter and 250 grams of sugar",
    "Departures 08:45 from platform 12",
    "Please keep this door closed at night",
    "Model 7 reached 93.4 percent on the second day",
    "A river runs between the two old towns",
    "Invoice No. 20417 is due on 30 June",
    "Turn left at the bridge, then follow the signs",
    "Shake well before use and store in a cool place",
    "Nobody remembered who had planted the pear tree",
    "Tickets: adults 14.50, children 6.00",
    "The measured value lies inside the interval",
    "Open daily from nine to half past five",
    "Chapter 3. How the harbour was built",
    "Three sheets of paper lay on the table",
    "Do not cover the ventilation slots",
    "Winter came early to the northern valleys",
    "Serial number K4-7730-B, made in 2019",
    "Her letters were short and always dated",
    "Water boils at a lower temperature up there",
    "Every second house had a blue front door",
    "Press and hold both buttons for 5 seconds",
    "The train was late because of fallen leaves",
    "Contents: rice, beans, salt, pepper",
)

# Lines of scikit-image's page.png as (top, bottom, left, right) in its 191 x 384 pixels.
PAGE_LINES = (
    (9, 36, 4, 294),
    (47, 66, 4, 378),
    (64, 84, 4, 378),
    (82, 102, 4, 378),
    (98, 121, 4, 378),
    (115, 138, 4, 172),
)


def _is_for(number: int, split: str) -> bool:
    """Give a third of everything to calibration and the rest to validation."""
    return (number % 3 == 2) == (split == "calibration")


# PP-OCR: text lines and pages.


def cls(limit: int = 48, seed: int = 0, split: str = "validation") -> Iterator[Sample]:
    """Yield lines of text, one in two turned by 180°: ``x`` [1, 3, 48, 192]."""
    draw = np.random.default_rng([seed, split == "calibration", 1])
    crops = _page_crops(split)
    sentences = [text for number, text in enumerate(SENTENCES) if _is_for(number, split)]
    for number in range(limit):
        # One in three comes from the photographed page.
        if number % 3 == 0:
            line = crops[number // 3 % len(crops)]
        else:
            line = _rendered_line(draw, sentences[number % len(sentences)])
        turned = number % 2 == 1
        yield {"x": _line_input(line[::-1, ::-1] if turned else line)}, int(turned)


def _page_crops(split: str) -> list[Image]:
    """Cut the page's lines into pieces of four to one, the shape of the model's input."""
    page = _picture("page.png")
    pieces = []
    for number, (top, bottom, left, right) in enumerate(PAGE_LINES):
        width = (bottom - top) * 4
        if _is_for(number, split):
            pieces += [page[top:bottom, start : start + width] for start in range(left, right - width + 1, width // 3)]
    return pieces


def _rendered_line(draw: np.random.Generator, text: str) -> Image:
    """Render a piece of a sentence in one of many sizes, inks, papers and angles, with the noise of a camera."""
    from PIL import Image as Pictures
    from PIL import ImageDraw, ImageFilter, ImageFont

    words = text.split()
    start = int(draw.integers(0, max(1, len(words) - 3)))
    size = int(draw.integers(24, 44))
    font = ImageFont.load_default(size)
    piece = " ".join(words[start : start + 4])
    left, top, right, bottom = (int(edge) for edge in font.getbbox(piece))
    margin = int(draw.integers(3, 9))
    paper, ink = _colours(draw)
    line = Pictures.new("RGB", (right - left + 2 * margin, bottom - top + 2 * margin), paper)
    ImageDraw.Draw(line).text((margin - left, margin - top), piece, font=font, fill=ink)
    line = line.rotate(float(draw.uniform(-1.5, 1.5)), Pictures.Resampling.BICUBIC, fillcolor=paper)
    line = line.filter(ImageFilter.GaussianBlur(float(draw.uniform(0, 0.9))))
    return _with_noise(draw, np.asarray(line))


def _line_input(line: Image) -> Image:
    """Scale to a height of 48, at most 192 wide, to [-1, 1], padded with zeros on the right: [1, 3, 48, 192]."""
    height, width = line.shape[:2]
    scaled = _resize(line, 48, min(192, -(-48 * width // height)))
    padded = np.zeros((1, 3, 48, 192), np.float32)
    padded[0, :, :, : scaled.shape[1]] = (_channels_first(scaled) / 255 - 0.5) / 0.5
    return padded


def det(limit: int = 6, seed: int = 0, split: str = "validation") -> Iterator[Sample]:
    """Yield pages with text: ``x`` [1, 3, 480, 640] in [-1, 1]. The detector takes any multiples of 32."""
    draw = np.random.default_rng([seed, split == "calibration", 2])
    sentences = [text for number, text in enumerate(SENTENCES) if _is_for(number, split)]
    # Only one split gets each photograph: a printed page, handwriting, and what stands behind signs.
    calibrating = split == "calibration"
    photographed = "text.png" if calibrating else "page.png"
    behind = ("astronaut.png", "chelsea.png") if calibrating else ("coffee.png", "rocket.jpg")
    for number in range(limit):
        if number == 0:
            page = _resize(_picture(photographed), 480, 640)
        elif number % 2:
            page = _rendered_page(draw, sentences, np.full((480, 640, 3), _colours(draw)[0], np.uint8))
        else:
            page = _rendered_page(draw, sentences, _resize(_picture(behind[number // 2 % len(behind)]), 480, 640))
        yield {"x": ((_channels_first(page) / 255 - 0.5) / 0.5)[np.newaxis].astype(np.float32)}, None


def _rendered_page(draw: np.random.Generator, sentences: list[str], background: Image) -> Image:
    """Write sentences in several sizes down a page, or as signs onto a photograph."""
    from PIL import Image as Pictures
    from PIL import ImageDraw, ImageFont

    page = Pictures.fromarray(background)
    pen = ImageDraw.Draw(page)
    y = int(draw.integers(10, 40))
    while y < 430:
        size = int(draw.integers(14, 34))
        font = ImageFont.load_default(size)
        text = sentences[int(draw.integers(len(sentences)))]
        paper, ink = _colours(draw)
        place = (int(draw.integers(8, 120)), y)
        pen.rectangle(pen.textbbox(place, text, font=font), fill=paper)
        pen.text(place, text, font=font, fill=ink)
        y += int(size * draw.uniform(1.3, 2.6))
    return _with_noise(draw, np.asarray(page))


def _colours(draw: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw paper and ink with enough contrast to be read; one in four is light on dark."""
    light = tuple(int(value) for value in draw.integers(185, 256, 3))
    dark = tuple(int(value) for value in draw.integers(0, 90, 3))
    return (dark, light) if draw.random() < 0.25 else (light, dark)


def _with_noise(draw: np.random.Generator, image: Image) -> Image:
    noisy = image + draw.normal(0, draw.uniform(0, 6), image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _picture(name: str) -> Image:
    """Load one of scikit-image's pictures as RGB: [height, width, 3], uint8."""
    from PIL import Image as Pictures

    with Pictures.open(_package_folder("skimage", "scikit-image==0.25.2") / "data" / name) as picture:
        return np.asarray(picture.convert("RGB"))


def _resize(image: Image, height: int, width: int) -> Image:
    from PIL import Image as Pictures

    return np.asarray(
        Pictures.fromarray(np.ascontiguousarray(image)).resize((width, height), Pictures.Resampling.BILINEAR)
    )


def _channels_first(image: Image) -> Image:
    """Turn [height, width, RGB] into [BGR, height, width]: PP-OCR was trained on pictures as OpenCV reads them."""
    return image[:, :, ::-1].transpose(2, 0, 1).astype(np.float32)


# Silero VAD: the first chunk of a stream.

RATE, CHUNK, CONTEXT = 8000, 256, 32
"""Samples a second, of a chunk, and of what went before it: the model's form for 8 kHz, the recordings' own rate."""


def vad(limit: int = 64, seed: int = 0, split: str = "validation") -> Iterator[Sample]:
    """Yield chunks of 32 ms, one in two from the loudest part of a spoken letter or digit: ``input`` [1, 288].

    ``state`` [2, 1, 128] is zero, as at the start of a stream, and ``sr`` is 8000.
    """
    draw = np.random.default_rng([seed, split == "calibration", 3])
    spoken = [sound for number, sound in enumerate(_recordings()) if _is_for(number, split)]
    for number in range(limit):
        speaking = number % 2 == 0
        sound = _loudest(draw, spoken[number // 2 % len(spoken)]) if speaking else _no_speech(draw, number // 2)
        feeds: dict[str, np.ndarray[Any, Any]] = {
            "input": sound[np.newaxis].astype(np.float32),
            "state": np.zeros((2, 1, 128), np.float32),
            "sr": np.array(RATE, np.int64),
        }
        yield feeds, int(speaking)


def _recordings() -> list[Image]:
    """Read captcha's letters and digits (8 kHz, 8 bit, one speaker each), in [-1, 1]."""
    folder = _package_folder("captcha", "captcha==0.7.1") / "data"
    sounds = []
    for file in sorted(folder.glob("?/default.wav")):
        with wave.open(str(file)) as recording:
            samples = np.frombuffer(recording.readframes(recording.getnframes()), np.uint8)
        sounds.append((samples.astype(np.float64) - 128) / 128)
    return sounds


def _loudest(draw: np.random.Generator, sound: Image) -> Image:
    """Cut the loudest 32 ms and what went before them, moved by up to 8 ms, at a speaker's usual level."""
    energy = np.convolve(sound**2, np.ones(CHUNK), "valid")
    start = int(energy.argmax()) + int(draw.integers(-64, 65))
    start = min(max(start, CONTEXT), len(sound) - CHUNK)
    piece: Image = sound[start - CONTEXT : start + CHUNK] * (draw.uniform(0.6, 0.95) / np.abs(sound).max())
    return piece


def _no_speech(draw: np.random.Generator, number: int) -> Image:
    """Make silence with a microphone's hiss, white noise, mains hum, a hiss of low frequencies, or a click."""
    count = CONTEXT + CHUNK
    time = np.arange(count) / RATE
    white = draw.standard_normal(count)
    kinds: tuple[Image, ...] = (
        white * 0.001,
        white * draw.uniform(0.02, 0.2),
        np.sin(2 * np.pi * 50 * time + draw.uniform(0, 6)) * draw.uniform(0.05, 0.3) + white * 0.003,
        np.convolve(white, np.ones(16) / 16, "same") * draw.uniform(0.1, 0.5),
        np.exp(-np.abs(np.arange(count) - draw.integers(40, 250)) / 6) * white * draw.uniform(0.3, 0.9) + white * 0.002,
    )
    return kinds[number % len(kinds)]


# Magika: the first and last bytes of a file.

# Suffixes that leave no doubt (.pyc comes and goes with use), and the kind's place in the list of 214 that the model's
# config.min.json holds (standard_v3_3).
KINDS = {
    ".py": 143, ".pyi": 143, ".json": 87, ".html": 71, ".md": 100, ".toml": 181, ".xml": 206, ".css": 31,
    ".js": 83, ".c": 17, ".cpp": 26, ".png": 133, ".gif": 58, ".jpg": 86, ".wav": 195, ".so": 46, ".npy": 110,
    ".npz": 111, ".ps1": 136, ".bat": 12, ".f90": 55, ".proto": 141, ".rst": 153, ".tif": 180, ".ico": 73, ".csv": 32,
}  # fmt: skip
END, BLOCK, PADDING = 1024, 4096, 256
"""Bytes taken from each end, bytes read to find them, and the number that stands for "no byte"."""


def magika(limit: int = 48, seed: int = 0, split: str = "validation") -> Iterator[Sample]:
    """Yield files of the Python installation, as many kinds as it has in turn: ``bytes`` [1, 2048] int32."""
    draw = np.random.default_rng([seed, 4])
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    by_kind: dict[int, list[Path]] = {}
    for root in roots:
        for path in sorted(root.rglob("*")):
            others = {"site-packages", "dist-packages"} & set(path.relative_to(root).parts)
            if path.suffix in KINDS and not others and path.is_file() and path.stat().st_size >= 256:
                by_kind.setdefault(KINDS[path.suffix], []).append(path)
    queues = [
        _distinct([by_kind[kind][place] for place in draw.permutation(len(by_kind[kind]))], kind, split)
        for kind in sorted(by_kind)
    ]
    given = 0
    while queues and given < limit:
        for queue in list(queues):
            sample = next(queue, None)
            if sample is None:
                queues.remove(queue)
            elif given < limit:
                given += 1
                yield sample


def _distinct(paths: list[Path], kind: int, split: str) -> Iterator[Sample]:
    """Yield the files of a split, told by content: copies of one file are common, and must not be in both."""
    seen = set()
    for path in paths:
        tokens = _ends(path)
        checksum = zlib.crc32(tokens.tobytes())
        if checksum not in seen and _is_for(checksum, split):
            seen.add(checksum)
            yield {"bytes": tokens}, kind


def _ends(path: Path) -> Image:
    """Return a file's first and last 1,024 bytes, white space at the ends left out: [1, 2048]."""
    with path.open("rb") as file:
        first = file.read(BLOCK).lstrip()[:END]
        file.seek(max(0, path.stat().st_size - BLOCK))
        last = file.read(BLOCK).rstrip()[-END:]
    tokens = np.full((1, 2 * END), PADDING, np.int32)
    tokens[0, : len(first)] = np.frombuffer(first, np.uint8)
    tokens[0, 2 * END - len(last) :] = np.frombuffer(last, np.uint8)
    return tokens


def _package_folder(package: str, requirement: str) -> Path:
    """Find an installed package without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f'{package} is not installed: add requires = ["{requirement}"] to the dataset in matrix.toml')
    return Path(next(iter(spec.submodule_search_locations)))
