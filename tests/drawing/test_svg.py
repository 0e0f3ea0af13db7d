import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbench.drawing.svg import Scale, draw_strip, draw_strip_axis, fit_scale

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


def test_scale():
    assert Scale(10, 20).place([10, 15, 20]).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("scale", "most", "ticks"),
    [
        (Scale(0, 100), 6, [0, 20, 40, 60, 80, 100]),
        (Scale(67.3, 70.9), 4, [68, 69, 70]),
        (Scale(-0.31, 0.31), 4, [-0.2, 0, 0.2]),
    ],
)
def test_ticks_are_round(scale, most, ticks):
    assert scale.ticks(most) == pytest.approx(ticks)


@given(st.lists(FINITE, min_size=1), st.integers(2, 8))
def test_any_values_fit(values, most):
    scale = fit_scale(values)
    places = scale.place(values)
    assert np.all((places > 0) & (places < 1))
    ticks = scale.ticks(most)
    assert len(ticks) <= most
    assert all(scale.low - 1e-6 <= tick <= scale.high + 1e-6 for tick in ticks)


def test_values_that_are_not_finite_are_ignored():
    assert fit_scale([1, 2, float("nan"), float("inf")]) == fit_scale([1, 2])
    assert fit_scale([]).low < fit_scale([]).high


def test_strip():
    drawn = draw_strip([1.0, 2.0, 6.0], Scale(0, 6), "c2", "dots")
    assert drawn.count("<circle") == 3
    assert '<path class="mean" d="M66.0,2v14"/>' in drawn  # 3 of 6: the middle


@given(FINITE, FINITE)
def test_labels_of_strips_do_not_overlap(low, high):
    drawn = draw_strip_axis(fit_scale([low, high]))
    labels = re.findall(r'<text x="([\d.]+)"[^>]*>([^<]*)<', drawn)
    ends = [(float(x) - 3.5 * len(t), float(x) + 3.5 * len(t)) for x, t in labels]
    assert all(a[1] + 4 < b[0] for a, b in pairwise(ends))
