"""Detectors: what is taken for a secret, what never is, and at what cost."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry import detectors
from tenantry.detectors import SECRET_NAMES, is_secret_name, make_prefilter

SUSPECTS = make_prefilter(SECRET_NAMES, "\ue000", detect=True)


def clean(text: str) -> str:
    return detectors.clean(text, SECRET_NAMES)


CASES = {
    "e-mail": ("mail alice@example.com now", "mail [email] now"),
    "e-mail before more": ("a.b+c@mail.example.co.uk_old", "[email]_old"),
    "e-mail percent-encoded": ("?to=alice%40example.com&x=1", "?to=[email]&x=1"),
    "e-mail of other letters": ("zoë@exämple.de", "[email]"),
    "bearer": ("Bearer abcdef1234567890", "Bearer [token]"),
    "bearer of letters": ("bearer abcdefghijklmnopqrst", "bearer [token]"),
    "authorization": ("Authorization: Basic dXNlcjpwYXNz", "Authorization: [secret]"),
    "stripe": ("key sk_live_abcdefgh12345678.", "key [api key]."),
    "github": ("ghp_abcdefghijklmnop1234", "[api key]"),
    "slack": ("xoxb-123456789012-abc", "[api key]"),
    "aws": ("AKIAABCDEFGHIJKLMNOP", "[api key]"),
    "private key": ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----x", None),
    "private key cut off": ("-----BEGIN PRIVATE KEY-----\nMIIE", "[private key]"),
    "jwt": ("t eyJhbGciOi.eyJzdWIiOiIx.abc t", "t [jwt] t"),
    "jwt cut off": ("eyJhbGciOi.eyJzdWIiOiIx", "[jwt]"),
    "card": ("4111111111111111", "[card]"),
    "card in groups": ("4111 1111 1111 1111 12/26", "[card] 12/26"),
    "card behind a number": ("2026 4111-1111-1111-1111", "2026 [card]"),
    "card before a dot": ("5555555555554444.", "[card]."),
    "card of 15 digits": ("3782 822463 10005", "[card]"),
    "two cards": ("4111111111111111,378282246310005", "[card],[card]"),
    "userinfo": ("https://user:hunter2@example.com/a", "https://example.com/a"),
    "userinfo with @": ("postgresql://u:p@ss@host:5432/db", "postgresql://host:5432/db"),
    "userinfo with a slash": ("https://u:p/w@host/db", "https://host/db"),
    "parameters": ("https://e.com/?a=1&token=x&b=2#key=z", None),
    "encoded name": ("https://e.com/?q=a%20b&%70assword=x&z=1", None),
    "url in a url": ("?next=https://a.b/c?token=xyz&d=1", "?next=https://a.b/c?token=[secret]&d=1"),
    "conninfo": ("host=h password='hun ter2' user=u", "host=h password=[secret] user=u"),
    "json": ('{"api_key": "abc", "n": 1}', '{"api_key": "[secret]", "n": 1}'),
    "repr": ("{'password': 'hunter2', 'a': 1}", "{'password': '[secret]', 'a': 1}"),
    "json in json": (r"{\"password\": \"hunter2\"}", r"{\"password\": \"[secret]\"}"),
}
WHOLE = {
    "private key": "[private key]x",
    "parameters": "https://e.com/?a=1&token=[secret]&b=2#key=[secret]",
    "encoded name": "https://e.com/?q=a%20b&%70assword=[secret]&z=1",
}


@pytest.mark.parametrize("name", CASES)
def test_secret_is_replaced_by_what_it_was(name):
    text, expected = CASES[name]
    assert clean(text) == (expected or WHOLE[name])


@pytest.mark.parametrize("name", CASES)
def test_what_was_cleaned_stays_as_it_is(name):
    once = clean(CASES[name][0])
    assert clean(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "Bearer of good news",
        "bearer certificate",
        "keyboard=1 tokens=5",
        "exit code=3",
        "http://h:8080/@x",
        "numpy@1.2.3",
        "@alice",
        "4111111111111112",
        "task_4111111111111111x",
        "0.4111111111111111",
        "4111111111111111.5",
        "eyJpZCI6MTB9",
        "task-abcdefghijklmnopqrstuvwxyz",
        "2026-11-22 21:50:30.123456+00:00",
    ],
)
def test_what_only_resembles_a_secret_is_left_alone(text):
    assert clean(text) == text


@given(
    st.one_of(
        st.uuids().map(str),
        st.uuids().map(lambda u: u.hex),
        st.text("0123456789-", min_size=32, max_size=32).map(
            lambda t: str(UUID(bytes=t.encode()[:16]))
        ),
        st.text("123456789", min_size=32, max_size=32).map(lambda t: str(UUID(t))),
        st.floats().map(repr),
        st.integers(-(10**13), 10**13).map(str),
        st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
        st.integers(1_000_000_000, 1_999_999_999).flatmap(
            lambda s: st.sampled_from([str(s * 10**n) for n in (0, 3, 6, 9)])
        ),
        st.binary(min_size=8, max_size=32).map(bytes.hex),
        st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=26, max_size=26).map("01".__add__),
    ),
    st.sampled_from(["", "c-", "conv_", "user:", "id="]),
)
def test_ids_times_and_numbers_are_never_altered(value, prefix):
    assert clean(prefix + value) == prefix + value


PIECES = st.one_of(
    st.sampled_from([case for case, _ in CASES.values()]),
    st.text(max_size=12),
    st.sampled_from(
        ["token", "pass-word", "=", ":", '"', "'", "\\", "&", "?", "@", "%40", " ", "//"]
    ),
)


@given(st.lists(PIECES, max_size=8).map("".join))
def test_prefilter_misses_nothing_that_would_be_cleaned(text):
    if clean(text) != text:
        assert SUSPECTS(json.dumps({"k": text}, ensure_ascii=False).encode("utf-8", "replace"))


@given(st.text(st.sampled_from("PASsword_-. 1keyAPIToken"), max_size=20))
def test_prefilter_misses_no_secret_name(name):
    if is_secret_name(name, SECRET_NAMES):
        assert SUSPECTS(json.dumps({name: 1}).encode())


@pytest.mark.parametrize(
    "name",
    [
        *("password", "PASSWORD", "db_password", "X-Api-Key", "accessToken", "APIKey", "api.key"),
        *("Set-Cookie", "password_2", "cvv2", "card number", "AWS_SECRET_ACCESS_KEY"),
        "user[password]",
    ],
)
def test_name_of_a_secret_is_known(name):
    assert is_secret_name(name, SECRET_NAMES)


@pytest.mark.parametrize(
    "name", ["tokens", "keyboard", "taliban", "key", "author", "", "1", "card"]
)
def test_other_names_are_left_alone(name):
    assert not is_secret_name(name, SECRET_NAMES)


HOSTILE = {
    "emails": "a" * 40_000 + "@",
    "ats": "@" * 40_000,
    "domains": "a@" + "a." * 20_000,
    "jwt": "_eyJ" * 10_000,
    "jwt dots": "eyJabcdef." * 4_000,
    "digits": "4" * 40_000,
    "digit groups": "4444 " * 8_000,
    "userinfo": "//a:b" * 8_000,
    "slashes": "/" * 40_000,
    "parameters": "a=" * 20_000,
    "more parameters": "&a=b" * 10_000,
    "secret parameters": "&token=b" * 5_000,
    "quotes": "'a':'" * 8_000,
    "more quotes": '"' * 40_000,
    "private keys": "-----BEGIN PRIVATE KEY" * 1_800,
    "bearer": "Bearer " * 6_000,
    "spaces": "bearer" + " " * 40_000,
    "authorization": "authorization:a " * 2_500,
    "camel": "aB" * 20_000 + "=",
    "base64": base64.b64encode(b"x" * 30_000).decode(),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.timeout(10)  # a quadratic expression would take minutes for the largest
def test_hostile_text_is_searched_in_linear_time(name):
    clean(HOSTILE[name] * 5)
