"""The only place where logits are divided by a temperature."""

import torch.nn.functional as F
from torch import Tensor


def soften(logits: Tensor, temperature: Tensor) -> Tensor:
    """Log-probabilities of softened logits.

    Works in float32 or wider whatever comes in: with high temperatures the loss is a small
    difference of large sums, and half precision loses it.

    Args:
        logits: [B, K].
        temperature: [B, 1], > 0.

    Returns:
        [B, K] log softmax(logits / temperature).
    """
    wide = logits if logits.dtype.itemsize >= 4 else logits.float()
    return F.log_softmax(wide / temperature, dim=1)
