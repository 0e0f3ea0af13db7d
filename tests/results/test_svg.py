import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbench.results.svg import Chart, Scale, draw_strip, draw_strip_axis, fit_scale

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


def make_chart(label="x", **changes):
    axes = {"x": Scale(1, 11), "y": Scale(0, 1), **changes}
    return Chart(label, **axes, x_name="epoch", y_name="part, %", size=(180, 130))


def paths(chart, kind):
    return re.findall(rf'<path class="{kind}[^"]*" d="([^"]*)"', chart.render())


def test_scale():
    assert Scale(10, 20).place([10, 15, 20]).tolist() == [0, 0.5, 1]
    assert Scale(1, 100, log=True).place([1, 10, 100]) == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize(
    ("scale", "most", "ticks"),
    [
        (Scale(0, 100), 6, [0, 20, 40, 60, 80, 100]),
        (Scale(67.3, 70.9), 4, [68, 69, 70]),
        (Scale(1, 2, whole=True), 6, [1, 2]),
        (Scale(-0.31, 0.31), 4, [-0.2, 0, 0.2]),
        (Scale(0.9, 22, log=True), 6, [1, 2, 5, 10, 20]),
        (Scale(0.2, 22, log=True), 4, [0.3, 1, 3, 10]),
        (Scale(3.4, 4.6, log=True), 4, [3.5, 4, 4.5]),
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


def test_what_cannot_be_shown_does_not_count():
    assert fit_scale([1, 2, float("nan"), float("inf")]) == fit_scale([1, 2])
    assert fit_scale([0, -1, 2], log=True) == fit_scale([2], log=True)
    assert fit_scale([]).low < fit_scale([]).high


def test_line_has_gaps():
    chart = make_chart()
    chart.line(np.arange(1, 7), np.array([np.nan, 0, 1, np.nan, 1, 0]), "c1")
    (path,) = paths(chart, "line")
    assert [len(part.split()) for part in path.split("M")[1:]] == [2, 2]


def test_a_single_point_can_be_seen():
    chart = make_chart(x=Scale(0.5, 1.5))
    chart.line(np.array([1]), np.array([1.0]), "c1")
    chart.band(np.array([1]), np.array([0.0]), np.array([1.0]), "c1")
    middle, height = chart.plot[0] / 2, chart.plot[1]
    assert paths(chart, "line") == [f"M{middle - 3:g},0 {middle + 3:g},0"]
    left, right = f"{middle - 3:g}", f"{middle + 3:g}"
    assert paths(chart, "band") == [f"M{left},{height} {right},{height} {right},0 {left},0Z"]


def test_negative_ticks_have_a_minus_sign():
    assert ">\N{MINUS SIGN}5</text>" in make_chart(y=Scale(-6, 6)).render()


def test_band_is_a_ring():
    chart = make_chart()
    low, high = np.array([0.0, 0.0, np.nan]), np.array([1.0, 1.0, 1.0])
    chart.band(np.array([1, 11, 11]), low, high, "c1")
    width, height = chart.plot
    assert paths(chart, "band") == [f"M0,{height} {width:g},{height} {width:g},0 0,0Z"]


def test_names_of_axes_and_marks_are_escaped():
    chart = make_chart(label="<a>")
    chart.line(np.array([1, 2]), np.array([0, 1]), "c1", title="<b>")
    drawn = chart.render()
    assert 'aria-label="&lt;a&gt;"' in drawn
    assert "<title>&lt;b&gt;</title>" in drawn
    assert ">epoch</text>" in drawn
    assert ">part, %</text>" in drawn


def test_shared_marks():
    chart = make_chart()
    chart.line(np.array([1, 2]), np.array([0, 1]), "c1")
    assert '<g id="back"><path class="line c1"' in chart.share("back")
    other = make_chart()
    other.show("back")
    assert '<use href="#back"/>' in other.render()


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
