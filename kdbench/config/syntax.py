"""What is wrong with an override that Hydra's grammar does not accept, in words."""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from kdbench.words import suggest

# A list of overrides, and what in a list is an override without quotes.
_RECIPE = re.compile(r"[+]{0,2}teacher\.recipe=")
_OVERRIDE = re.compile(r"\s*[~+]{0,2}[A-Za-z_][\w./@]*=", re.ASCII)
_KEY = re.compile(r"[A-Za-z_][\w.]*(/\w+)*(@[\w.]+)?", re.ASCII)


def is_readable(override: str) -> bool:
    """Whether Hydra can read one override; it reads one without a key, and we do not."""
    if override.lstrip("+~").startswith("="):
        return False
    try:
        OverridesParser.create().parse_overrides([override])
    except HydraException:
        return False
    return True


def explain(override: str, find_group: Callable[[str], list[str]]) -> str:
    """One sentence for an override that cannot be read: what to write instead.

    Args:
        override: as on the command line.
        find_group: the groups that have an option of this name.
    """
    if override.startswith("-"):
        plain = override.lstrip("-")
        hint = f"write {plain}" if "=" in plain else "--help shows how they are written"
        return f"{override}: choices and values have no dashes; {hint}"
    if override.startswith("~"):
        return f"{override}: to remove a key, write ~KEY with its full name, such as ~temperature.x"
    if "=" not in override:
        groups = find_group(override)
        hint = suggest([f"{group}={override}" for group in groups[:3]])
        return f"{override} is not KEY=VALUE{hint}"
    key, _, value = override.partition("=")
    name = key.lstrip("+")
    if name.startswith("/"):
        return f"{override}: a key has no slash at its beginning; write {name.lstrip('/')}={value}"
    if not name:
        return f"{override}: the key is missing before the =; write KEY={value}"
    if not _KEY.fullmatch(name):
        return f"{override}: {name} is not a key; keys consist of letters a-z, digits, _ and dots"
    return f"{override}: {_explain_value(key, value)}"


def _explain_value(key: str, value: str) -> str:
    for opening, closing in ("[]", "{}", "()"):
        if value.count(opening) != value.count(closing):
            return f"{opening} and {closing} do not match in the value {value}"
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    quoted = f"{key}='{escaped}'"
    if is_readable(quoted):
        return f"this value must be quoted, for the shell too: {shlex.quote(quoted)}"
    return f"{value} cannot be read; a text with special characters is quoted: {key}=\\'TEXT\\'"


def quote_recipes(overrides: Sequence[str]) -> list[str]:
    """``teacher.recipe=[method=kd]`` with the quotes that Hydra's grammar asks for.

    Each element of the list becomes a quoted text, lists of recipes inside of it included; what is
    quoted already stays as it is.
    """
    return [_quote_recipe(each) if _RECIPE.match(each) else each for each in overrides]


def _quote_recipe(override: str) -> str:
    key, _, value = override.partition("=")
    return f"{key}={''.join(_quote_elements(value))}"


def _quote_elements(value: str) -> Iterator[str]:
    """The parts of a list, or of several ones with commas between them."""
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
