"""The document: one response, which a browser lets do nothing but show itself and ask for its JSON."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from modelwatch.page.document import data_headers, document


@pytest.fixture
def html():
    return document().html.decode()


@pytest.fixture
def policy():
    """The content security policy, by directive."""
    text = dict(document().headers)[b"content-security-policy"].decode()
    return dict(directive.strip().split(" ", 1) for directive in text.split(";"))


def test_it_is_one_file(html):
    """Nothing in it is fetched from anywhere: no source, no link but the icon within, no import, no address."""
    assert re.findall(r"<(?:script|img|iframe|object|embed)\b[^>]*\bsrc", html) == []
    assert [link for link in re.findall(r"<link\b[^>]*>", html) if 'href="data:' not in link] == []
    assert "@import" not in html
    assert "url(" not in html
    named = set(re.findall(r"https?://[^\s'\"`)]+", html))
    assert named == {"http://www.w3.org/2000/svg"}  # the name of a language, not an address


def test_style_and_script_are_known_by_their_hashes(html, policy):
    """The policy lets exactly the page's own style and script run: what stands between their tags has that hash."""
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"


def test_the_policy_is_strict(policy):
    """All else is forbidden: other hosts, forms, frames, other bases, and text that becomes markup."""
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert not any("unsafe" in value for value in policy.values())


def test_nothing_in_it_makes_markup_of_text(html):
    """The script has no way to make markup, or code, of a text."""
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc",
                "DOMParser", "createContextualFragment"):  # fmt: skip
        assert way not in html
    assert not re.search(r"<\w+[^>]*\son\w+=", html)


@pytest.mark.parametrize("headers", [document().headers, data_headers()], ids=["page", "data"])
def test_headers_of_both(headers):
    """Neither is kept, guessed at, embedded elsewhere, or tells another page where its reader came from."""
    found = {name.decode(): value.decode() for name, value in headers}
    assert found["cache-control"] == "no-store"
    assert found["x-content-type-options"] == "nosniff"
    assert found["referrer-policy"] == "no-referrer"
    assert found["cross-origin-resource-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in found["content-security-policy"]


def test_it_is_small():
    """The whole page is less than a picture: under 80 kB before it is compressed."""
    assert len(document().html) < 80_000
