"""Keep secrets out of whatever is stored or printed: the one place that knows what a secret looks like.

Recognised are user and password in a URL, query values and quoted or `NAME=` values whose name says password, secret,
token, key or credential, HTTP authorization headers, private keys in PEM, and the values (of 6 characters or more) of
environment variables with such a name or with a password in their URL. What looks like none of these is not found.
"""

import html
import os
import re
from typing import Any
from urllib.parse import quote, unquote, urlsplit

MARK = "***"
_SHORTEST_SECRET = 6  # shorter values, such as 1 or true, are words of every text
_NAME = r"(?:pass(?:word|wd|phrase)|pwd|secret|token|credential|signature|(?:api|access|private|secret|account|auth)[_-]?key)"
_RULES = (
    (re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)", re.S), MARK),
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/'\"<>]{1,500}@", re.I), rf"\1{MARK}@"),
    (re.compile(rf"([?&;][\w.%-]{{0,40}}(?:{_NAME}|key|sig|auth)[\w.%-]{{0,40}}=)[^&\s'\"#<>]+", re.I), rf"\1{MARK}"),
    (re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?(?:\w+\s+)?)[^\s'\"]+", re.I), rf"\1{MARK}"),
    (re.compile(rf"({_NAME}\w{{0,40}}['\"]?\s{{0,8}}[:=]\s{{0,8}}(['\"]))(?:(?!\2).){{4,}}?\2", re.I), rf"\1{MARK}\2"),
    (re.compile(rf"({_NAME}\w{{0,40}}\s{{0,8}}[:=]\s{{0,8}})[\w+/=.~-]{{8,}}", re.I), rf"\1{MARK}"),
)
_SECRET_VARIABLE = re.compile(r"PASS(WORD|WD|PHRASE)|SECRET|TOKEN|CREDENTIAL|(^|_)(API)?KEY(_|$)", re.I)


def redact(text: str) -> str:
    """Put MARK into the place of every secret that is recognised."""
    for secret in _known_secrets():
        text = text.replace(secret, MARK)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def redact_values(tree: dict[str, Any]) -> dict[str, Any]:
    """Redact the texts among the values; numbers stay numbers."""
    return {key: redact(value) if isinstance(value, str) else value for key, value in tree.items()}


def _known_secrets() -> list[str]:
    """Collect what the environment holds, in all spellings, the longest first."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name):
            found.add(value)
        found |= {part for part in _url_secrets(value) if part}
    spelled = {form for secret in found for form in (secret, quote(secret, safe=""), html.escape(secret))}
    return sorted((secret for secret in spelled if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True)


def _url_secrets(value: str) -> set[str]:
    if "://" not in value or "@" not in value:
        return set()
    try:
        password = urlsplit(value).password or ""
    except ValueError:
        return set()
    return {password, unquote(password)}
