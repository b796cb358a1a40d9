"""What must not be read by whoever reads a log, a result or an error: masked, wherever it stands.

Two nets, because each has holes. By form: logins and query strings of URLs, tokens after `Bearer`
and `Basic`, and what follows a name such as `password`, `token` or `Authorization`. By value: what
was taken from the environment for a header or an endpoint is registered, and masked in any form of
sentence.
"""

import json
import re
import threading
from urllib.parse import quote, quote_plus

MASK = "***"
# A shorter value is a word of its own somewhere, and masking it would make logs unreadable.
SHORTEST_SECRET = 6
# Counted with every form in which a value is written; tasks name far fewer variables. The oldest go first.
MAX_SECRETS = 512

_NAMES = (
    r"password|passwd|passphrase|pwd|secret(?:[_-]?(?:access[_-]?)?key)?|token|credentials?"
    r"|(?:api|access|private|signing|encryption)[_-]?key|authorization|cookie"
)
# Looking for a plain word costs a tenth of what a pattern costs, and most texts have none of these.
_TRIGGERS = ("://", "bearer", "basic", "passw", "passphrase", "pwd", "secret", "token", "credential", "key", "authorization", "cookie")  # fmt: skip

# From `://` to the end of the URL in one match, so that a long text is read only once.
_URL = re.compile(r"""://(?:([^\s/?#"'<>]*)@)?([^\s?#"'<>]*)(\?[^\s#"'<>]*)?""")
_BEARER = re.compile(r"""(?i)\b(bearer\s+)[^\s"',;*]+""")
# Only what looks like base64 follows: "basic checks passed" is no secret.
_BASIC = re.compile(r"""\b((?i:basic)\s+)(?=[a-z]*[A-Z0-9+/=])[A-Za-z0-9+/_-]{4,}=*""")
# These headers hold whole sentences, so all is masked up to the end of the value.
_HEADER = re.compile(
    r"""(?i)((?:authorization|cookie)\\*["']?(?:[ \t]*[:=][ \t]*|,[ \t]*(?=b?["']))(?:b(?=["']))?\\*["']?)[^"'\r\n\\]+"""
)
_NAMED = re.compile(
    rf"""(?i)((?:{_NAMES})\\*["']?[ \t]*[:=][ \t]*(?:b(?=["']))?(?:\\+["'])?)"""
    r"""("(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s"'\\&,;)}\]]+)"""
)
# What the WHATWG's URL standard, and with it httpx, does not encode.
_PLAIN_IN_PATH = "!$&'()*+,/:;=@[\\]^|"
_PLAIN_IN_QUERY = _PLAIN_IN_PATH + "?`{}"
_SECRET_NAME = re.compile(rf"(?i)(?:{_NAMES})$")


class _Secrets:
    """The registered values, for many threads: writers take turns, readers see one whole tuple."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, None] = {}
        # The longest first, so that a secret within another does not leave the rest of it.
        self.values: tuple[str, ...] = ()

    def add(self, value: str) -> None:
        # Every call registers what it fills in, so the usual case must not wait for a lock.
        if len(value) < SHORTEST_SECRET or value in self._known:
            return
        with self._lock:
            self._known |= dict.fromkeys(_forms(value))
            while len(self._known) > MAX_SECRETS:
                del self._known[next(iter(self._known))]
            self.values = tuple(sorted(self._known, key=len, reverse=True))


def _forms(value: str) -> tuple[str, ...]:
    """A value as it stands, within JSON, and within a URL, where each writer leaves other characters alone."""
    # An environment may hold bytes that are no text; they must not stop a call here.
    odd = "backslashreplace"
    within_url = (quote(value, safe, errors=odd) for safe in ("", "/", _PLAIN_IN_PATH, _PLAIN_IN_QUERY))
    return (value, json.dumps(value)[1:-1], quote_plus(value, errors=odd), *within_url)


_secrets = _Secrets()


def register_secret(value: str) -> None:
    """Have a value masked from now on, as it stands, percent-encoded, and within JSON.

    Values of fewer than 6 characters are not registered.
    """
    _secrets.add(value)


def redact(text: str) -> str:
    """The text as it may be shown: what is secret by its value or its form becomes ***."""
    for secret in _secrets.values:
        if secret in text:
            text = text.replace(secret, MASK)
    lowered = text.lower()
    if not any(trigger in lowered for trigger in _TRIGGERS):
        return text
    text = _URL.sub(_shown_url, text)
    text = _HEADER.sub(rf"\1{MASK}", text)
    text = _BEARER.sub(rf"\1{MASK}", text)
    text = _BASIC.sub(rf"\1{MASK}", text)
    return _NAMED.sub(_shown_value, text)


def is_secret_name(name: str) -> bool:
    """Whether the value of a field of this name is never shown, whatever it is: `api_token`, `Cookie`."""
    return _SECRET_NAME.search(name) is not None


def _shown_url(match: re.Match[str]) -> str:
    login, place, query = match.groups()
    shown = "://"
    if login is not None:
        # A login without a colon may be a token in place of a user.
        user, colon, _ = login.partition(":")
        shown += f"{user}:{MASK}@" if colon else f"{MASK}@"
    return f"{shown}{place}?{MASK}" if query else f"{shown}{place}"


def _shown_value(match: re.Match[str]) -> str:
    name, value = match.groups()
    mark = value[0] if value[0] in "\"'" else ""
    return f"{name}{mark}{MASK}{mark}"
