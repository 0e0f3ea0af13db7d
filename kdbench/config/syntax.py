"""Explains overrides that Hydra's grammar does not accept, and quotes recipes for it."""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from kdbench.words import suggest

# A recipe (a list of overrides), and an unquoted override in such a list.
_RECIPE = re.compile(r"[+]{0,2}teacher\.recipe=")
_OVERRIDE = re.compile(r"\s*[~+]{0,2}[A-Za-z_][\w./@]*=", re.ASCII)
_KEY = re.compile(r"[A-Za-z_][\w.]*(/\w+)*(@[\w.]+)?", re.ASCII)


def is_readable(override: str) -> bool:
    """Whether Hydra can parse an override; one without a key, which it accepts, is rejected."""
    if override.lstrip("+~").startswith("="):
        return False
    try:
        OverridesParser.create().parse_overrides([override])
    except HydraException:
        return False
    return True


def explain(override: str, find_group: Callable[[str], list[str]]) -> str:
    """One sentence on an override that cannot be parsed: what to write instead.

    Args:
        override: as on the command line.
        find_group: returns the groups that have an option of this name.
    """
    if override.startswith("-"):
        plain = override.lstrip("-")
        hint = f"write {plain}" if "=" in plain else "see --help for examples"
        return f"{override}: overrides have no leading dashes; {hint}"
    if override.startswith("~"):
        return f"{override}: to remove a key, write ~KEY with its full path, such as ~temperature.x"
    if "=" not in override:
        groups = find_group(override)
        hint = suggest([f"{group}={override}" for group in groups[:3]])
        return f"{override} is not KEY=VALUE{hint}"
    key, _, value = override.partition("=")
    name = key.lstrip("+")
    if name.startswith("/"):
        return f"{override}: keys have no leading slash; write {name.lstrip('/')}={value}"
    if not name:
        return f"{override}: the key is missing before the =; write KEY={value}"
    if not _KEY.fullmatch(name):
        return f"{override}: {name} is not a valid key; use letters a-z, digits, _ and dots"
    return f"{override}: {_explain_value(key, value)}"


def _explain_value(key: str, value: str) -> str:
    for opening, closing in ("[]", "{}", "()"):
        if value.count(opening) != value.count(closing):
            return f"{opening} and {closing} do not match in the value {value}"
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    quoted = f"{key}='{escaped}'"
    if is_readable(quoted):
        return f"quote the value, for the shell too: {shlex.quote(quoted)}"
    return f"{value} cannot be parsed; quote text with special characters: {key}=\\'TEXT\\'"


def quote_recipes(overrides: Sequence[str]) -> list[str]:
    """Adds the quotes that Hydra's grammar requires to ``teacher.recipe=[method=kd]``.

    Each element of the list is quoted, including any nested recipe; quoted elements are kept.
    """
    return [_quote_recipe(each) if _RECIPE.match(each) else each for each in overrides]


def _quote_recipe(override: str) -> str:
    key, _, value = override.partition("=")
    return f"{key}={''.join(_quote_elements(value))}"


def _quote_elements(value: str) -> Iterator[str]:
    """The parts of a list, or of several lists separated by commas."""
    depth, quote, part = 0, "", ""
    for position, sign in enumerate(value):
        escaped = position > 0 and value[position - 1] == "\\"
        if sign in "'\"" and not escaped and quote in ("", sign):
            quote = "" if quote else sign
        elif not quote:
            ends = (depth == 1 and sign in ",]") or (depth == 0 and sign in "[,")
            depth += (sign == "[") - (sign == "]")
            if ends:
                yield from (_quote_element(part), sign)
                part = ""
                continue
        part += sign
    yield part


def _quote_element(text: str) -> str:
    if not _OVERRIDE.match(text):
        return text
    escaped = text.strip().replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
