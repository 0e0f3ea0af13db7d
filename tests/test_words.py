"""Plurals, lists, numbers and durations in messages."""

import pytest

from kdbench import words


def test_plurals_of_nouns_and_verbs():
    found = [words.plural(number, "run") for number in (0, 1, 2, 1200)]
    assert found == ["0 runs", "1 run", "2 runs", "1,200 runs"]
    assert words.plural(1, "is", "are") == "1 is"
    assert words.plural(3, "is", "are") == "3 are"


def test_lists():
    assert [words.join_words(list(text)) for text in ("", "a", "ab", "abc")] == [
        *("", "a", "a and b", "a, b and c")
    ]
    assert words.join_words(["a", "b"], "or") == "a or b"
    assert words.list_some([1, 2, 3], 3) == "1, 2, 3"
    assert words.list_some([1, 2, 3, 4], 2, "; ") == "1; 2 and 2 more"
    assert (words.span(1, 1), words.span(1, 5)) == ("1", "1 to 5")


def test_a_text_is_cut_to_its_limit():
    assert words.shorten("abcdef", 6) == "abcdef"
    assert words.shorten("abcdefg", 6) == "abc..."


@pytest.mark.parametrize(
    ("name", "count", "output"),
    [
        ("tempreature", 1, "; did you mean temperature?"),
        ("tau", 2, "; did you mean taus or tau_w?"),
        ("zzz", 1, ""),
    ],
)
def test_did_you_mean(name, count, output):
    assert words.did_you_mean(name, ["temperature", "taus", "tau_w", "taus"], count) == output


def test_numbers():
    assert [words.three_digits(n) for n in (0.012345, 12.345, 100.4, 1234.5)] == [
        *("0.0123", "12.3", "100", "1,234")
    ]
    assert (words.signed(0.314, 2), words.signed(-0.314, 2)) == ("+0.31", "\N{MINUS SIGN}0.31")


def test_durations():
    written = [words.duration(seconds) for seconds in (4.21, 59.99, 200, 3600, 7500, 200_000)]
    assert written == ["4.2 s", "60.0 s", "3 min 20 s", "1 h 00 min", "2 h 05 min", "2.3 days"]
    assert [words.clock(seconds) for seconds in (-1, 200.4)] == ["0:00:00", "0:03:20"]
