"""Feed broken images to the reader behind `--calib`, `eval` and `bench`.

    python bench/fuzz_images.py [--inputs 10000] [--write]

Small images of every format that is read (PNG of 1 to 16 bits, with palette, alpha and interlacing; JPEG baseline,
progressive and turned by EXIF; BMP; TIFF of several compressions and pages; WebP with and without loss), mutated: bytes
flipped, cut, doubled and swapped, and numbers of headers made huge. Some get another format's name.
"""

from __future__ import annotations

import io
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzzing import Options, Tally, fuzz, mutate, run

from onnxslim_yolo.runtime.images import load_canvas

SIZE = (64, 64)
HUGE = [
    *(b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\xff\xff", b"\xff\xff\x00\x00", b"\x00\x01\x00\x00"),
    *(b"\x00\x00\x00\x00", b"\xff\xd8\xff\xda", b"\xff\xda", b"IHDR", b"IDAT", b"acTL", b"VP8L", b"ANIM", b"MM\x00*"),
]
SAVED: list[tuple[str, str, dict[str, object]]] = [
    ("1", "PNG", {}),
    ("P", "PNG", {}),
    ("RGBA", "PNG", {"compress_level": 1}),
    ("I;16", "PNG", {}),
    ("LA", "PNG", {}),
    ("RGB", "JPEG", {"quality": 70}),
    ("RGB", "JPEG", {"progressive": True}),
    ("CMYK", "JPEG", {}),
    (
        "L",
        "JPEG",
        {"exif": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"},
    ),
    ("RGB", "BMP", {}),
    ("P", "BMP", {}),
    ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    ("RGB", "TIFF", {"compression": "tiff_adobe_deflate"}),
    ("1", "TIFF", {"compression": "group4"}),
    ("F", "TIFF", {}),
    ("RGB", "WEBP", {"quality": 60}),
    ("RGBA", "WEBP", {"lossless": True}),
]


def encoded(mode: str, kind: str, options: dict[str, object]) -> bytes:
    """A small picture in one mode and format."""
    pixels = np.random.default_rng(len(mode)).integers(0, 256, (24, 40, 3)).astype(np.uint8)
    pixels[4:16] = pixels[4:5, 4:5]
    stream = io.BytesIO()
    picture = Image.fromarray(pixels)
    picture = picture.convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)
    picture.save(stream, kind, **options)
    return stream.getvalue()


def main() -> int:
    held = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    files = [encoded(*each) for each in SAVED]
    names = [Path(held.name) / f"a.{suffix}" for suffix in ("png", "jpg", "bmp", "tif", "webp")]

    def make(rng: random.Random) -> tuple[Path, bytes]:
        return rng.choice(names), mutate(rng, rng.choice(files), HUGE)

    def read(data: object) -> None:
        path, content = data  # type: ignore[misc]
        path.write_bytes(content)
        load_canvas(path, SIZE)

    def images(options: Options) -> Tally:
        return fuzz("images", make, read, options)

    return run({"images": images}, __doc__)


if __name__ == "__main__":
    sys.exit(main())
