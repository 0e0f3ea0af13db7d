"""The README's picture and badges are those that the script draws."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from scripts import draw_readme
from tests.helpers.paths import ROOT

SHOWN = {name for names in draw_readme.KINDS.values() for name in names}


def words(svg):
    return {"".join(text.itertext()).strip() for text in ElementTree.fromstring(svg).iter()
            if text.tag.endswith("}text")}  # fmt: skip


@pytest.mark.parametrize("theme", draw_readme.THEMES)
def test_the_picture_shows_the_study(theme):
    study = draw_readme.read_study()
    drawn = draw_readme.draw(study, theme)
    assert words(drawn) >= SHOWN
    assert draw_readme.draw(study, theme) == drawn
    kept = (ROOT / f"docs/images/curves-{theme}.svg").read_text()
    assert words(kept) == words(drawn)
    numbers = [[float(n) for n in re.findall(r"\d+(?:\.\d+)?", text)] for text in (kept, drawn)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.02)
    assert len(kept) < 40_000


def test_means_are_those_of_the_seeds():
    study = draw_readme.read_study()
    assert study.keys() == SHOWN
    assert study["normkd"]["test/top1"][-1] == pytest.approx(34.15, abs=0.005)
    assert study["scratch"]["test/top1"][-1] == pytest.approx(23.41, abs=0.005)


def test_labels_do_not_overlap():
    places = draw_readme.spread([0.1, 0.11, 0.5, 0.52, 0.53, 0.9], 0.06)
    assert all(b - a >= 0.06 - 1e-9 for a, b in pairwise(places))
    assert places[-1] == 0.9
    assert places[0] == pytest.approx(0.075)


def test_badges_say_what_the_project_says():
    for name, value in draw_readme.read_badges().items():
        kept = (ROOT / f"docs/images/{name.lower()}.svg").read_text()
        assert kept == draw_readme.draw_badge(name, value)
