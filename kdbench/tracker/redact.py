"""Removes secrets from everything that a tracker writes or sends."""

import os
import re
from collections.abc import Mapping
from numbers import Real
from typing import Any

REMOVED = "<removed>"

# Words of a config key ("hf_token", "apiKey") that mark its value as secret.
_KEY_WORDS = frozenset(
    ["key", "apikey", "token", "secret", "password", "passwd", "credential", "credentials"]
)
_VARIABLE = re.compile("KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL")
# A key and its value within text: "hub.api_key=x", "--token=x", '"password": "x"'.
_PAIR = re.compile(r"""((?<![\w-])-{0,2}([\w.-]+)["']?\s*[=:]\s*["']?)([^\s"',;)}\]]+)""")
# Shorter secrets are only removed if they are the whole text: they may be parts of other words.
_MIN_INSIDE = 8


def redact(value: Any) -> Any:
    """A copy of ``value`` in plain types, without anything that looks like a secret.

    Removes values whose key has a word such as "token" or "password", and the values of
    environment variables whose name contains KEY, TOKEN, SECRET, PASSWORD, PASSWD or CREDENTIAL
    from all text. Objects that are not plain are converted to text.
    """
    return _redact(value, _secrets())


def redact_line(text: str) -> str:
    """A log line without the values of secret variables and secret keys.

    >>> redact_line("hub.api_key=abc tau=4 password: x")
    'hub.api_key=<removed> tau=4 password: <removed>'
    """
    safe = _redact_text(text, _secrets())
    return _PAIR.sub(lambda pair: pair[1] + REMOVED if _is_secret_key(pair[2]) else pair[0], safe)


def _redact(value: Any, secrets: list[str]) -> Any:
    if value is None or isinstance(value, Real):
        return value
    if isinstance(value, Mapping):
        return {
            _redact_text(str(key), secrets): REMOVED
            if _is_secret_key(str(key)) and not isinstance(item, bool | None)
            else _redact(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redact(item, secrets) for item in value]
    return _redact_text(str(value), secrets)


def _redact_text(text: str, secrets: list[str]) -> str:
    if text in secrets:
        return REMOVED
    for secret in secrets:
        if len(secret) >= _MIN_INSIDE:
            text = text.replace(secret, REMOVED)
    return text


def _is_secret_key(key: str) -> bool:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower()
    return not _KEY_WORDS.isdisjoint(re.split(r"[^a-z0-9]+", words))


def _secrets() -> list[str]:
    """Values of secret environment variables, longest first: one may contain another."""
    values = {value for name, value in os.environ.items() if _VARIABLE.search(name.upper())}
    return sorted(values - {""}, key=len, reverse=True)


def describe_problem(error: Exception) -> str:
    """One line about an error, without secrets; some errors have no text."""
    return redact(" ".join(str(error).split())) or type(error).__name__
