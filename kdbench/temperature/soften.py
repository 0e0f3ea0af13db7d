"""The only place where logits are divided by a temperature."""

import torch.nn.functional as F
from torch import Tensor


def soften(logits: Tensor, temperature: Tensor) -> Tensor:
    """Log-probabilities of softened logits.

    Args:
        logits: [B, K].
        temperature: [B, 1], > 0.

    Returns:
        [B, K] log softmax(logits / temperature).
    """
    return F.log_softmax(scale_logits(logits, temperature), dim=1)


def scale_logits(logits: Tensor, temperature: Tensor) -> Tensor:
    """[B, K] logits / temperature, for losses without a softmax.

    In float32 or wider whatever comes in: with high temperatures a loss is a small difference of
    large sums, and half precision loses it.
    """
    wide = logits if logits.dtype.itemsize >= 4 else logits.float()
    return wide / temperature
