"""The operations of MLKD's released strong view as calls of Pillow, and pictures to try them on."""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps


def affine(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


PILLOW = {
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(v),
    "color": lambda image, v: ImageEnhance.Color(image).enhance(v),
    "contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(v),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "identity": lambda image, _: image,
    "posterize": lambda image, v: ImageOps.posterize(image, int(v)),
    "rotate": lambda image, v: image.rotate(v),
    "sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(v),
    "shear_x": lambda image, v: affine(image, 1, v, 0, 0, 1, 0),
    "shear_y": lambda image, v: affine(image, 1, 0, 0, v, 1, 0),
    "solarize": lambda image, v: ImageOps.solarize(image, v),
    "translate_x": lambda image, v: affine(image, 1, 0, v * image.width, 0, 1, 0),
    "translate_y": lambda image, v: affine(image, 1, 0, 0, 0, 1, v * image.height),
}


def pictures(height, width, channels, count=60):
    """Noise, soft pictures as photographs are, and degenerate ones: [N, H, W, C] uint8."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 4, 4, channels), dtype=np.uint8)
    resized = [
        np.asarray(Image.fromarray(c.squeeze()).resize((width, height), Image.Resampling.BICUBIC))
        for c in coarse
    ]
    images = np.stack(resized).reshape(count, height, width, channels)
    images[::3] = rng.integers(0, 256, images[::3].shape)
    images[1], images[2, ..., 0], images[4] = 77, 3, 0
    images[4, 0, 0] = 255
    return images
