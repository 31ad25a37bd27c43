from __future__ import annotations

import pytest

from medkd.study.page import (
    bullets,
    contour_legend,
    duration,
    facts,
    head_row,
    page,
    paragraph,
    png_figure,
    section,
    table,
    text,
)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_building_blocks() -> None:
    assert text("<'&\">") == "&lt;&#x27;&amp;&quot;&gt;"
    assert bullets(["a", "b"]) == "<ul><li>a</li><li>b</li></ul>"
    assert facts({"a": "1"}) == "<dl><dt>a</dt><dd>1</dd></dl>"
    assert section("A", "b", "c") == "<section><h2>A</h2>bc</section>"
    assert section("A", anchor="x") == '<section id="x"><h2>A</h2></section>'
    assert paragraph("a < b") == "<p>a &lt; b</p>"
    assert paragraph("a", "note") == '<p class="note">a</p>'
    assert paragraph("") == ""
    assert '<table class="wide"><caption>C</caption>' in table("C", head_row(["A"]), [], "wide")
    rows = table("Caption", head_row(["A", "B"]), [["a", "1"], ["b", "2"]])
    assert "<caption>Caption</caption><thead><tr><th>A</th><th>B</th></tr></thead>" in rows
    assert '<tr><th scope="row">a</th><td>1</td></tr><tr><th scope="row">b</th><td>2</td></tr></tbody>' in rows


def test_page_escapes_the_title_and_forbids_what_is_outside() -> None:
    content = page("a < b", "<p>body</p>")
    assert "<title>a &lt; b</title>" in content
    assert "<main>\n<p>body</p>\n</main>" in content
    assert "default-src 'none'" in content


def test_a_page_may_have_rules_of_its_own() -> None:
    rules = page("a", "b", ".own { color: red; }\n").partition("</style>")[0]
    assert rules.endswith(".own { color: red; }\n")
    assert rules.startswith(page("a", "b").partition("</style>")[0])


def test_pictures_carry_their_bytes_and_their_names() -> None:
    assert png_figure(b"abc", "Truth <1>", "enlarged") == (
        '<figure><img src="data:image/png;base64,YWJj" alt="Truth &lt;1&gt;, enlarged">'
        "<figcaption><b>Truth &lt;1&gt;</b> enlarged</figcaption></figure>"
    )
    assert '<span class="aside">a <b>remark</b></span>' in contour_legend("a <b>remark</b>")
