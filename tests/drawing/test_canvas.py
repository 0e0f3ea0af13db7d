import base64
import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf

from kdbench.drawing.canvas import COLOURS, Drawing, Panel, band, line, save, set_scales, show

EVIL = '<b> & $x_1$ "q" a\x00b \ud800 ' + "long " * 20


def draw(axes):
    set_scales(axes, (1, 4), (0, 10), names=("epoch", ""))
    x = np.arange(1, 5)
    band(axes, x, np.array([0, 1, np.nan, 2.0]), np.array([2, 3, 4, np.nan]), "c1 d0")
    line(axes, x, np.array([1, np.nan, 2, 3.0]), "c2 d1", EVIL)


DRAWING = Drawing("x", [Panel(EVIL, EVIL, draw)] * 3, 2, (2.5, 2.0), [(EVIL, "c2 d1")])


def texts(svg):
    root = ElementTree.fromstring(svg)
    return ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("text")]


def test_labels_stay_text_in_every_format(tmp_path):
    paths = save(DRAWING, tmp_path)
    assert [path.suffix for path in paths] == [".pdf", ".svg", ".png"]
    found = texts(paths[1].read_text())
    assert any(text.startswith('<b> & $x_1$ "q" a\N{REPLACEMENT CHARACTER}b') for text in found)
    assert any(text.endswith("\N{HORIZONTAL ELLIPSIS}") for text in found)


def test_the_same_bytes_and_no_global_state(tmp_path):
    before = dict(matplotlib.rcParams)
    one, two = save(DRAWING, tmp_path / "1"), save(DRAWING, tmp_path / "2")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert dict(matplotlib.rcParams) == before
    assert not Gcf.figs  # pyplot knows of none
    assert not re.search(
        rb"CreationDate|20\d\d-\d\d-\d\d", one[0].read_bytes() + one[1].read_bytes()
    )


def test_on_a_page_each_chart_is_separate_with_the_colors_of_the_page():
    shown = show(DRAWING, "p-", 1)
    assert len(shown.charts) == 3
    boxes = [re.search(r'viewBox="([^"]*)"', chart)[1] for chart in shown.charts]
    assert boxes == ["0 0 180 144", "180 0 180 144", "0 144 180 144"]
    everything = "".join(shown.charts)
    assert "var(--c2)" in everything
    assert not any(value in everything for value in COLOURS.values())
    ids = re.findall(r' id="([^"]*)"', everything)
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'(?:href="|url\()#([^")]*)', everything))
    assert wanted == set(ids)
    other = "".join(show(DRAWING, "p-", 2).charts)
    assert not set(ids) & set(re.findall(r' id="([^"]*)"', other))
    assert everything.count('class="row"') == 3
    assert "<title>&lt;b&gt; &amp;" in everything


def test_the_link_contains_the_file():
    shown = show(DRAWING, "p-", 1)
    head, content = shown.href.split(",")
    assert (shown.file, head) == ("p-x.svg", "data:image/svg+xml;base64")
    svg = base64.b64decode(content).decode()
    assert "fill: #ffffff" in svg  # on paper, in any program
    assert "var(" not in svg
    assert len([text for text in texts(svg) if text.startswith("<b>")]) == 4


def test_a_single_point_is_visible():
    from matplotlib.figure import Figure

    axes = Figure().add_axes((0, 0, 1, 1))
    line(axes, np.arange(3), np.array([np.nan, 1.0, np.nan]), "c1")
    assert axes.lines[0].get_marker() == "o"


@pytest.mark.parametrize(
    ("ends", "least"), [((0.9, 22), 4), ((0.2, 22), 3), ((3.4, 4.6), 3), ((1e-3, 1e4), 3)]
)
def test_logarithmic_ticks_are_plain_numbers(ends, least):
    from matplotlib.figure import Figure

    axes = Figure().add_axes((0, 0, 1, 1))
    set_scales(axes, (1, 9), ends, names=("epoch", ""), log=True)
    shown = [
        t for t in axes.yaxis.get_major_locator().tick_values(*ends) if ends[0] <= t <= ends[1]
    ]
    assert len(shown) >= least
    write = axes.yaxis.get_major_formatter()
    assert all(re.fullmatch(r"[\d.]+|1e[+-]?\d+", write(tick, 0)) for tick in shown)


def test_training_and_help_do_not_import_matplotlib():
    check = "import sys, kdbench.cli.train, kdbench.cli.report, kdbench.tracker.wandb; "
    check += "sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
