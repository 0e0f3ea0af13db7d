"""A power transform of the teacher that gives more weight to smoother teacher outputs."""

import torch.nn.functional as F

from kdbench.outputs import Outputs
from kdbench.progress import Progress
from kdbench.temperature.base import Temperatures
from kdbench.temperature.ttm import TTM


class WTTM(TTM):
    """TTM with samples weighted by the power sum of the teacher's probabilities.

    Rule: T_t = 1 / exponent, T_s = 1, scale_b = sum_c p_bc^exponent with p = softmax(z_t).
    Source: Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching",
        ICLR 2024, arXiv 2402.11148.
    Shapes and ranges: 0 < exponent <= 1; scale from 1 (one-hot teacher) to K^(1 - exponent)
        (uniform teacher). It is not normalized over the batch, so the weight of the term is far
        smaller than TTM's.
    Gradient: none; the teacher is a constant.
    Deviations: none in value. The power sum is computed in log space, to avoid underflow.
    """

    def forward(self, outputs: Outputs, progress: Progress) -> Temperatures:
        unweighted = super().forward(outputs, progress)
        powers = self.exponent * F.log_softmax(outputs.logits[0], dim=1)
        return unweighted._replace(scale=powers.logsumexp(dim=1).exp())
