"""Pillow's image operations on whole batches: the same pixels, without a loop over images.

Every function takes images [B, C, H, W] uint8 (C 1 or 3) and one magnitude [B] float64 per image,
on one device, and returns new images of the same shape and type. Results equal Pillow's to the
last bit: each function reproduces the rounding of its C code (truncation in float32, 16.16 fixed
point, integer luma).
"""

import math

import torch
from torch import Tensor

_LUMA = (19595, 38470, 7471)  # ITU-R 601-2 in 16 bits, as in Pillow's conversion to "L"
_ONE = 1 << 16  # 1 in Pillow's fixed point


def identity(images: Tensor, magnitude: Tensor) -> Tensor:
    """The images, unchanged."""
    return images


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """``ImageEnhance.Brightness``: towards black; 0 <= factor <= 1."""
    table = _blend(torch.zeros(1, device=images.device), _all_values(images), factor.view(-1, 1))
    return _look_up(images, table)


def color(images: Tensor, factor: Tensor) -> Tensor:
    """``ImageEnhance.Color``: towards gray; 0 <= factor <= 1. Grayscale images do not change."""
    return _blend(_luma(images), images, factor.view(-1, 1, 1, 1))


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """``ImageEnhance.Contrast``: towards the mean luma of the image; 0 <= factor <= 1."""
    luma = _luma(images).flatten(1)
    count = luma.shape[1]
    mean = (2 * luma.sum(1) + count) // (2 * count)
    return _look_up(images, _blend(mean.view(-1, 1), _all_values(images), factor.view(-1, 1)))


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """``ImageEnhance.Sharpness``: towards a 3x3 smoothing, but for the border; 0 <= factor <= 1."""
    if min(images.shape[2:]) < 3:
        return images
    values = images.to(torch.int16)
    rows = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = ((box + 4 * values[:, :, 1:-1, 1:-1]) / 13 + 0.5).to(torch.uint8)
    return _blend(smooth, images, factor.view(-1, 1, 1, 1))


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """``ImageOps.posterize``: keeps the highest ``bits`` bits (truncated), 1 to 8."""
    kept = bits.to(torch.int32).clamp(min=1)
    mask = (256 - (1 << (8 - kept))).to(torch.uint8)
    return images & mask.view(-1, 1, 1, 1)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """``ImageOps.solarize``: inverts values >= ``threshold``, 0 to 256."""
    value = _all_values(images)
    return _look_up(images, torch.where(value < threshold.view(-1, 1), value, 255 - value))


def autocontrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """``ImageOps.autocontrast``: stretches the values of each channel to 0..255."""
    low = images.amin((2, 3)).double().unsqueeze(2)
    span = images.amax((2, 3)).double().unsqueeze(2) - low
    value = _all_values(images)
    scale = torch.full_like(span, 255) / span.clamp(min=1)  # 255 / x is 255 * (1 / x) in torch
    table = torch.where(span > 0, value * scale - low * scale, value)
    return _look_up(images, table.clamp(0, 255))


def equalize(images: Tensor, magnitude: Tensor) -> Tensor:
    """``ImageOps.equalize``: equalizes the histogram of each channel."""
    count = _histogram(images)
    last = 255 - (count > 0).flip(2).int().argmax(2, keepdim=True)
    step = (count.sum(2, keepdim=True) - count.gather(2, last)) // 255
    before = count.cumsum(2) - count
    table = (step // 2 + before) // step.clamp(min=1)
    return _look_up(images, torch.where(step > 0, table.clamp(max=255), _all_values(images)))


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """``Image.rotate``: counterclockwise around the center, nearest pixel, black corners."""
    height, width = images.shape[2:]
    angle = degrees * (-math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    x, y = width / 2, height / 2
    return _transform(images, (cos, sin, x - cos * x - sin * y), (-sin, cos, y + sin * x - cos * y))


def shear_x(images: Tensor, slope: Tensor) -> Tensor:
    """``Image.transform`` with the matrix (1, slope, 0, 0, 1, 0), nearest pixel."""
    one, zero = torch.ones_like(slope), torch.zeros_like(slope)
    return _transform(images, (one, slope, zero), (zero, one, zero))


def shear_y(images: Tensor, slope: Tensor) -> Tensor:
    """``Image.transform`` with the matrix (1, 0, 0, slope, 1, 0), nearest pixel."""
    one, zero = torch.ones_like(slope), torch.zeros_like(slope)
    return _transform(images, (one, zero, zero), (slope, one, zero))


def translate_x(images: Tensor, part: Tensor) -> Tensor:
    """``Image.transform``: to the left by ``part`` of the width, nearest pixel."""
    one, zero = torch.ones_like(part), torch.zeros_like(part)
    return _transform(images, (one, zero, _whole(part * images.shape[3])), (zero, one, zero))


def translate_y(images: Tensor, part: Tensor) -> Tensor:
    """``Image.transform``: upwards by ``part`` of the height, nearest pixel."""
    one, zero = torch.ones_like(part), torch.zeros_like(part)
    return _transform(images, (one, zero, zero), (zero, one, _whole(part * images.shape[2])))


def fill_rectangles(images: Tensor, corners: Tensor, color: Tensor) -> Tensor:
    """``ImageDraw.rectangle``: fills one rectangle in each image.

    Args:
        images: [B, C, H, W] uint8.
        corners: [4, B] int64: x0, y0, x1, y1, ends included; may be outside the image.
        color: [C] uint8.
    """
    x0, y0, x1, y1 = corners.unsqueeze(2)
    y, x = (torch.arange(size, device=images.device) for size in images.shape[2:])
    inside_x, inside_y = (x0 <= x) & (x <= x1), (y0 <= y) & (y <= y1)
    inside = (inside_y.unsqueeze(2) & inside_x.unsqueeze(1)).unsqueeze(1)
    return torch.where(inside, color.view(-1, 1, 1), images)


def _all_values(images: Tensor) -> Tensor:
    """[256] float64: every pixel value."""
    return torch.arange(256, dtype=torch.float64, device=images.device)


def _blend(start: Tensor, end: Tensor, factor: Tensor) -> Tensor:
    """Pillow's ``Image.blend``: float32, then truncated to uint8."""
    start = start.float()
    return (factor.float() * (end.float() - start) + start).to(torch.uint8)


def _luma(images: Tensor) -> Tensor:
    """[B, 1, H, W] int32."""
    if images.shape[1] == 1:
        return images.int()
    red, green, blue = images.int().split(1, dim=1)
    return (red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2] + _ONE // 2) >> 16


def _histogram(images: Tensor) -> Tensor:
    """Counts of each value in each channel: [B, C, 256] int64."""
    values = images.flatten(2).long()
    count = values.new_zeros(*values.shape[:2], 256)
    return count.scatter_add_(2, values, torch.ones_like(values))


def _look_up(images: Tensor, table: Tensor) -> Tensor:
    """Replaces each value by its truncated entry in the table of its image or channel.

    Args:
        images: [B, C, H, W] uint8.
        table: [B, 256] or [B, C, 256], 0 <= entry < 256.
    """
    tables = table.shape[:-1].numel()
    first = 256 * torch.arange(tables, dtype=torch.int32, device=images.device)
    place = images.view(tables, -1) + first.unsqueeze(1)
    found = table.to(torch.uint8).flatten().index_select(0, place.flatten())
    return found.view(images.shape)


def _whole(shift: Tensor) -> Tensor:
    """Rounds a shift to whole pixels."""
    return (shift + 0.5).floor()


def _transform(
    images: Tensor, to_x: tuple[Tensor, Tensor, Tensor], to_y: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Takes pixel (x, y) from (a x + b y + c, d x + e y + f); black if that is outside.

    Args:
        images: [B, C, H, W] uint8.
        to_x: a, b, c, each [B] float64.
        to_y: d, e, f.
    """
    channels, height, width = images.shape[1:]
    y = torch.arange(height, dtype=torch.int32, device=images.device).view(1, -1, 1)
    x = torch.arange(width, dtype=torch.int32, device=images.device)
    from_x, from_y = (
        (_fixed(of_x) * x + (_fixed(of_y) * y + _fixed(shift + 0.5 * (of_x + of_y)))) >> 16
        for of_x, of_y, shift in (to_x, to_y)
    )
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    place = torch.where(inside, from_y * width + from_x, 0).long().flatten(1).unsqueeze(1)
    found = images.flatten(2).gather(2, place.expand(-1, channels, -1))
    return found.view(images.shape) * inside.unsqueeze(1)


def _fixed(number: Tensor) -> Tensor:
    """[B] float64 to [B, 1, 1] int32 in fixed point."""
    return (number * _ONE + 0.5).floor().int().view(-1, 1, 1)
