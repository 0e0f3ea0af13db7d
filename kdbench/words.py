"""How messages and tables write plurals, lists, numbers, durations and sizes."""

import sys
from collections.abc import Iterable, Sequence
from datetime import timedelta
from difflib import get_close_matches

MINUS = "\N{MINUS SIGN}"
_DAY = 24 * 60 * 60  # seconds


def say(text: str) -> None:
    """Prints a message to standard error: standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def plural(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun or verb: "1 run", "1,200 runs"; ``plural(2, "is", "are")``: "2 are".

    Args:
        number: whole, >= 0.
        one: the singular.
        many: the plural; None adds an "s".
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def join_words(words: Sequence[str], last: str = "and") -> str:
    """A list in a sentence: "a, b and c"."""
    *others, final = words or [""]
    return f"{', '.join(others)} {last} {final}" if others else final


def list_some(names: Sequence[object], most: int = 4, between: str = ", ") -> str:
    """The first names of a list, and how many more there are: "a, b and 3 more"."""
    shown = between.join(str(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def span(low: object, high: object) -> str:
    """A range, or its one value: "1 to 5", "3"."""
    return str(low) if low == high else f"{low} to {high}"


def shorten(text: str, limit: int) -> str:
    """The text cut to at most ``limit`` characters; "..." marks a cut."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def nearest(name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.55) -> list[str]:
    """The known names most similar to ``name``, the closest first."""
    return get_close_matches(name, list(dict.fromkeys(known)), count, cutoff)


def did_you_mean(name: str, known: Iterable[str], count: int = 1) -> str:
    """``; did you mean ...?`` with the known names closest to ``name``, or nothing."""
    return suggest(nearest(name, known, count))


def suggest(names: Sequence[str]) -> str:
    """``; did you mean A or B?``, or nothing if there is nothing to suggest."""
    return f"; did you mean {join_words(names, 'or')}?" if names else ""


def signed(value: float, digits: int) -> str:
    """A number with an explicit, typographic sign: "+0.31"."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def three_digits(number: float) -> str:
    """Three significant digits, or all integer digits: "0.0123", "12.3", "1,234"."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def duration(seconds: float) -> str:
    """At most the two largest units: "4.2 s", "3 min 20 s", "2 h 05 min", "2.1 days"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    if seconds < 2 * _DAY:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{seconds / _DAY:.1f} days"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: "0:03:20"."""
    return str(timedelta(seconds=round(max(seconds, 0))))
