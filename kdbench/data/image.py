"""Decoding single images, with the path in every complaint."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdbench.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_MODES = {1: "L", 3: "RGB"}


def read_image(file: Path | BytesIO, where: str, channels: int) -> "Image":
    """Decodes an image; grey and palette images become RGB where ``channels`` is 3.

    Args:
        file: a path, or the encoded bytes.
        where: path, and row where there is one, for the message.
        channels: 1 or 3.

    Raises:
        DataError: not an image, or a damaged one.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.convert(_MODES[channels])
    # Pillow reports damage with whatever exception the decoder met.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{where} cannot be decoded as an image ({error}); restore the file or remove it"
        ) from error


def read_array(file: Path | BytesIO, where: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Decodes an image of a known shape (H, W, C) to uint8; DataError where it has another."""
    pixels = np.asarray(read_image(file, where, channels=shape[2])).reshape(-1)
    if pixels.size != np.prod(shape):
        raise DataError(f"{where} has {pixels.size} values instead of {shape} (H, W, C)")
    return pixels.reshape(shape)
