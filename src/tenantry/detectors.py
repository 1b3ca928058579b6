"""Detectors: how a secret looks in text, and which names announce one. Knows no event.

Each regular expression takes time linear in the text: it begins with a literal or behind a
boundary, and what it repeats is of one class or bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Final
from urllib.parse import unquote_plus

from pydantic_core import SchemaValidator, core_schema

SECRET: Final = "[secret]"  # noqa: S105  # a mark, and no secret
"""Stands where a value was that a name gave away."""

SECRET_NAMES: Final = frozenset(
    {
        *("password", "passwd", "passphrase", "passcode", "pwd"),
        *("secret", "secrets", "secretkey", "credential", "credentials"),
        *("token", "jwt", "bearer", "authorization", "cookie", "cookies"),
        *("apikey", "accesskey", "accesskeyid", "privatekey", "signingkey", "encryptionkey"),
        *("creditcard", "creditcardnumber", "cardnumber", "cvv", "cvv2", "cvc", "iban"),
        *("ssn", "socialsecuritynumber"),
    }
)
"""Names of keys whose values are removed, in small letters without separators."""

_QUERY_NAMES: Final = frozenset(
    {"auth", "code", "key", "otp", "pass", "pin", "session", "sid", "sig", "signature"}
)
"""Further names of a URL's parameters whose values are removed: whole names, not their ends."""

_WORD: Final = r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+"


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compile on first use: an import, and who never meets a secret, need none of them."""
    return re.compile(pattern)


def normalize_name(name: str) -> str:
    """Write a name in small letters, without what separates its words."""
    return "".join(re.findall(r"[A-Za-z0-9]+", name)).lower()


def is_secret_name(name: str, names: frozenset[str]) -> bool:
    """Say whether a key's name, or its last words, are among the (normalized) ``names``.

    ``db_password``, ``X-Api-Key`` and ``accessToken`` are, ``tokens`` and ``keyboard`` are not;
    numbers at the end do not count.
    """
    if normalize_name(name) in names:
        return True
    words = _compiled(_WORD).findall(name[-_LONGEST_NAME:])
    while words and words[-1].isdecimal() and "".join(words).lower() not in names:
        words.pop()
    ending = ""
    for word in reversed(words):
        ending = word.lower() + ending
        if ending in names:
            return True
    return False


_LONGEST_NAME: Final = 128

# What a secret looks like: for both engines, Python's and that of the prefilter.

_API_KEY: Final = (
    r"[rsp]k_(?:live|test)_[A-Za-z0-9]{8,}|gh[opsur]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}"
    r"|xox[a-z]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|AIza[A-Za-z0-9_-]{30,}|glpat-[A-Za-z0-9_-]{16,}|npm_[A-Za-z0-9]{30,}|hf_[A-Za-z0-9]{30,}"
    r"|sk-[A-Za-z0-9_-]{20,}|whsec_[A-Za-z0-9+/=]{16,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"
)
_PRIVATE_KEY: Final = r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY"
_JWT: Final = r"eyJ[A-Za-z0-9_-]{6,512}\.[A-Za-z0-9_-]{6,}"
_BEARER: Final = r"[Bb](?:earer|EARER) +[A-Za-z0-9._~+/=-]{8,}"
_CARD: Final = (
    r"[2-6][0-9]{13}|[2-6][0-9]{3}[ .-][0-9]{4}[ .-][0-9]{4}[ .-][0-9]|3[0-9]{3}[ .-][0-9]{6}[ .-]"
)

_FIND_API_KEY: Final = rf"(?<![A-Za-z0-9])(?:{_API_KEY})"
_FIND_PRIVATE_KEY: Final = rf"{_PRIVATE_KEY}[\s\S]*?(?:-----END[^-]{{0,60}}-----|\Z)"
_FIND_JWT: Final = rf"(?<![A-Za-z0-9-]){_JWT}(?:\.[A-Za-z0-9_-]*)?"
_FIND_AUTHORIZATION: Final = (
    r"""(?i:(authorization["']? ?[:=] ?["']?))(?:[A-Za-z]{1,20} +)?[^\s"',]+"""
)
_FIND_CARD: Final = (
    r"(?<![0-9A-Za-z])(?<![0-9]\.)"
    r"(?:[2-6][0-9]{13,18}"
    r"|[2-6][0-9]{3}([ .-])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?"
    r"|3[0-9]{3}([ .-])[0-9]{6}\2[0-9]{4,5})"
    r"(?![0-9A-Za-z])(?!\.[0-9])"
)
_FIND_EMAIL: Final = r"[\w.+%-]{1,64}(?:@|%40)(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}"
_FIND_USERINFO: Final = (
    # A password with a slash in it is no URL, and yet what people write: up to the last @ then.
    r"(?<=//)[^\s/?#:@\[]{0,128}:(?![0-9]{1,5}(?:[/?#]|\Z))[^\s@\"'<>]{1,256}@",
    r"(?<=//)[^\s/?#\"'<>]{1,512}@",
)
_FIND_PARAMETER: Final = r"([?&#;]?)(?<![\w.%+\[\]~-])([\w.%+\[\]~-]+)( {0,2}= {0,2})"
_PARAMETER_VALUE: Final = r"""\\?"[^"]{0,4096}"?|\\?'[^']{0,4096}'?|[^\s"'<>]+"""
_URL_VALUE: Final = r"[^\s&;#\"'<>]+"
_FIND_MEMBER: Final = (
    r"""(\\?["'])([\w .-]{1,128})(\1 {0,2}[:=]>? {0,2})"""
    r"""(\\?"[^"]{0,4096}"?|\\?'[^']{0,4096}'?|[^\s,}\]"']+)"""
)

_ALWAYS: Final = "|".join(
    (
        "@|%40",
        _API_KEY,
        _PRIVATE_KEY,
        _JWT,
        _BEARER,
        rf"(?:[^0-9A-Za-z]|\\[bfnrt]|\\u[0-9a-f]{{4}})(?:{_CARD})",  # behind what JSON escapes, too
        rf"[?&#;](?:{'|'.join(sorted(_QUERY_NAMES))})=",
        r"[?&#;][^=&\x22 ]{0,128}%[0-9A-Fa-f]{2}[^=&\x22 ]{0,128}=",
    )
)


@lru_cache(maxsize=8)
def make_prefilter(
    names: frozenset[str], extra: str, *, detect: bool
) -> Callable[[str | bytes], bool]:
    """Make what tells from the JSON of a payload whether there may be anything to remove.

    Says True too often, never too seldom, and for a NUL, which jsonb refuses. One search by
    pydantic-core's regular expressions, which are automata: some 2 ns a byte, where Python's would
    take ten times that. ``extra`` is a further literal; without ``detect``, the names of keys are
    all that is looked for.
    """
    spelled = "|".join("[-_. ]*".join(name) for name in sorted(names))
    ends = r'(?:[0-9\]_. -]|%5[dD])*(?:\\{0,4}["\x27])? {0,2}[:=]'
    pattern = rf"\\u0000|{extra}|(?i-u:{spelled}){ends}"
    if detect:
        pattern += f"|{_ALWAYS}"
    return SchemaValidator(core_schema.str_schema(pattern=pattern)).isinstance_python


def clean(text: str, names: frozenset[str]) -> str:
    """Replace what looks like a secret by a mark that says what it was."""
    if "PRIVATE KEY" in text:
        text = _compiled(_FIND_PRIVATE_KEY).sub("[private key]", text)
    if "uthorization" in text.lower():
        text = _compiled(_FIND_AUTHORIZATION).sub(rf"\1{SECRET}", text)
    if "=" in text or ":" in text:
        text = _clean_pairs(text, names)
    if "eyJ" in text:
        text = _compiled(_FIND_JWT).sub("[jwt]", text)
    text = _compiled(_BEARER).sub(_bearer, text)
    text = _compiled(_FIND_API_KEY).sub("[api key]", text)
    text = _clean_cards(text)
    if "@" in text or "%40" in text:
        for userinfo in _FIND_USERINFO:
            text = _compiled(userinfo).sub("", text)
        text = _compiled(_FIND_EMAIL).sub("[email]", text)
    return text


def _clean_pairs(text: str, names: frozenset[str]) -> str:
    def member(found: re.Match[str]) -> str:
        quote, name, middle, value = found.groups()
        if not is_secret_name(name, names):
            return found[0]
        mark = value[: len(value) - len(value.lstrip("\\\"'"))]
        return f"{quote}{name}{middle}{mark}{SECRET}{mark}"

    text = _compiled(_FIND_MEMBER).sub(member, text)
    kept: list[str] = []
    done = 0
    for found in _compiled(_FIND_PARAMETER).finditer(text):
        lead, name, _ = found.groups()
        read = unquote_plus(name)
        is_secret = is_secret_name(read, names) or (lead and read.lower() in _QUERY_NAMES)
        if not is_secret or found.start() < done:
            continue
        # Within a URL a value ends at the next parameter; elsewhere where the word does.
        value = _compiled(_URL_VALUE if lead else _PARAMETER_VALUE).match(text, found.end())
        if value is not None:
            kept += (text[done : found.end()], SECRET)
            done = value.end()
    return "".join((*kept, text[done:])) if kept else text


def _bearer(found: re.Match[str]) -> str:
    scheme, _, credential = found[0].partition(" ")
    is_word = len(credential.strip()) < 20 and credential.strip().rstrip(".").isalpha()  # noqa: PLR2004
    return found[0] if is_word else f"{scheme} [token]"


def _clean_cards(text: str) -> str:
    found = _compiled(_FIND_CARD).search(text)
    if found is None:
        return text
    kept: list[str] = []
    done = 0
    while found is not None:
        begin, end = found.span()
        if _is_card("".join(c for c in found[0] if c.isdecimal())):
            kept += (text[done:begin], "[card]")
            done = end
        else:
            end = begin + 1
        found = _compiled(_FIND_CARD).search(text, end)
    return "".join((*kept, text[done:]))


_ISSUERS: Final = (
    (("4",), (16, 19)),
    (("51", "52", "53", "54", "55", *map(str, range(2221, 2721))), (16,)),
    (("34", "37"), (15,)),
    (("30", "36", "38", "39"), (14,)),
    (("35", "50", "56", "57", "58", "60", "62", "63", "64", "65", "67"), (16, 17, 18, 19)),
)
"""How the numbers of the large networks begin (ISO/IEC 7812-1), and how many digits they have."""


def _is_card(digits: str) -> bool:
    """Check issuer, length, and Luhn's digit (ISO/IEC 7812-1, annex B)."""
    length = len(digits)
    issued = any(length in lengths and digits.startswith(begins) for begins, lengths in _ISSUERS)
    doubled = (int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits)))
    return issued and sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0  # noqa: PLR2004
