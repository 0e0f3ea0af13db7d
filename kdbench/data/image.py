"""Decoding single images, with the path in every error message."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdbench.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_MODES = {1: "L", 3: "RGB"}
# Without a list Pillow tries every decoder it has, and one of them starts Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF")
_WIDE = ("I", "F")  # 32 bits: the value of white is unknown


def read_image(file: Path | BytesIO, where: str, channels: int) -> "Image":
    """Decodes an image; grayscale and palette images become RGB if ``channels`` is 3.

    Of 16-bit values the upper 8 bits are used, in grayscale and color.

    Args:
        file: a path, or the encoded bytes.
        where: path, and row if any, for the message.
        channels: 1 or 3.

    Raises:
        DataError: not an image in one of ``FORMATS``, damaged, or with 32-bit values.
    """
    from PIL import Image

    try:
        with Image.open(file, formats=FORMATS) as image:
            return _to_8_bits(image, where).convert(_MODES[channels])
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged image can raise anything
        raise DataError(
            f"{where} cannot be decoded as an image ({error}); allowed are {', '.join(FORMATS)}; "
            f"restore the file or remove it"
        ) from error


def _to_8_bits(image: "Image", where: str) -> "Image":
    from PIL.Image import fromarray

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in _WIDE:
        raise DataError(
            f"{where} has 32-bit values (mode {image.mode}) of unknown range; convert it to 8 or "
            f"16 bits, or remove it"
        )
    return image


def read_array(file: Path | BytesIO, where: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Decodes an image to uint8; DataError if its shape is not (H, W, C)."""
    image, (height, width, channels) = read_image(file, where, channels=shape[2]), shape
    if image.size != (width, height):
        raise DataError(
            f"{where} has {image.width}x{image.height} pixels (width x height), expected "
            f"{width}x{height}; resize it, or change dataset.image_size"
        )
    return np.asarray(image).reshape(height, width, channels)
