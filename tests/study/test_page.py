from __future__ import annotations

import pytest

from medkd.study.page import bullets, duration, facts, head_row, page, section, table, text


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
    rows = table("Caption", head_row(["A", "B"]), [["a", "1"], ["b", "2"]])
    assert "<caption>Caption</caption><thead><tr><th>A</th><th>B</th></tr></thead>" in rows
    assert '<tr><th scope="row">a</th><td>1</td></tr><tr><th scope="row">b</th><td>2</td></tr></tbody>' in rows


def test_page_escapes_the_title_and_forbids_what_is_outside() -> None:
    content = page("a < b", "<p>body</p>")
    assert "<title>a &lt; b</title>" in content
    assert "<main>\n<p>body</p>\n</main>" in content
    assert "default-src 'none'" in content
