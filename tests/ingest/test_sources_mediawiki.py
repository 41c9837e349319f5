"""Wikipedia dumps: articles as text, the rest as rows that say why not."""

from __future__ import annotations

import bz2
from pathlib import Path

import pytest

from imglish.ingest.sources import mediawiki
from imglish.ingest.sources.mediawiki import MediaWikiOptions, strip_markup
from tests.ingest.source_helpers import rows_of, source, write

DUMP = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">
  <siteinfo><sitename>Wikipedia</sitename><dbname>enwiki</dbname></siteinfo>
  <page>
    <title>AccessibleComputing</title><ns>0</ns><id>10</id><redirect title="Computer accessibility" />
    <revision><id>1</id><model>wikitext</model><text xml:space="preserve">#REDIRECT [[Computer accessibility]]</text>
    </revision>
  </page>
  <page>
    <title>Anarchism</title><ns>0</ns><id>12</id>
    <revision><id>2</id><contributor><id>9</id></contributor><model>wikitext</model>
      <text xml:space="preserve">{{Short description|x}}
'''Anarchism''' is a [[political philosophy|philosophy]]&lt;ref&gt;{{cite|x}}&lt;/ref&gt; &amp; more.
[[File:A.jpg|thumb|left|A ''picture'']]
[[Datei:B.svg|mini]]

== History ==
* First
{| class="wikitable"
|-
| cell
|}
[[Category:Foo]] &lt;page&gt; stays text.</text></revision>
  </page>
  <page><title>Talk:Anarchism</title><ns>1</ns><id>13</id><revision><text>hm</text></revision></page>
  <page><title>Broken</title><ns>0</ns><id>14</id><revision><text>&undefined; &lol;</text></revision></page>
  <page><title>Lost end</title><ns>0</ns><id>15</id>
  <page><title>Common.css</title><ns>0</ns><id>16</id><revision><model>css</model><text>a{}</text></revision></page>
  <page><title>Empty</title><ns>0</ns><id>17</id><revision><text deleted="deleted" /></revision></page>
  <page><title>Last</title><ns>0</ns><id>18</id><revision><text>The '''end'''.</text></revision></page>
</mediawiki>
"""


@pytest.mark.parametrize("name", ["enwiki-1-pages-articles.xml", "enwiki-1-pages-articles1.xml-p1p18.bz2"])
def test_articles_become_text_and_the_rest_says_why_not(tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: bz2.compress(DUMP.encode()) if name.endswith("bz2") else DUMP, "index.txt": "not a dump"})
    rows = rows_of(source("mediawiki", "text"), tmp_path)
    assert [row.status for row in rows] == [
        "skipped", "ok", "skipped", "bad_row", "bad_row", "skipped", "ok", "ok"
    ]  # fmt: skip
    assert (rows[1].row, rows[1].url) == (f"{name}#0/1", "https://en.wikipedia.org/?curid=12")
    assert (rows[1].payload or b"").decode() == (
        "Anarchism\n\nAnarchism is a philosophy & more.\n\nHistory\nFirst\n\n<page> stays text.\n"
    )
    assert rows[7].payload == b"Last\n\nThe end.\n"
    assert rows[0].detail == "'AccessibleComputing' is a redirect to 'Computer accessibility'"
    assert rows[2].detail == "'Talk:Anarchism' is in namespace 1"
    assert all(row.detail for row in rows if row.status != "ok")


def test_a_dump_that_breaks_off_gives_what_was_whole_and_the_reason(tmp_path: Path) -> None:
    pages = [DUMP.replace("Anarchism", f"A{n}").encode() for n in range(3)]
    for name in ("enwiki-1-multistream.xml.bz2", "enwiki-1.xml.bz2"):
        data = b"".join(map(bz2.compress, pages))
        write(tmp_path, {name: data[:-30]})
        rows = rows_of(source("mediawiki", "text", f"data/{name}"), tmp_path)
        assert [row.status for row in rows[:16]] == [row.status for row in rows[:8]] * 2
        assert rows[-1].status == "bad_row"
        assert "cannot be read after" in str(rows[-1].detail)


def test_entities_are_never_expanded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE m [<!ENTITY a "ha"><!ENTITY b "&a;&a;"><!ENTITY x SYSTEM "file:///etc/passwd">]><mediawiki>'
    page = "<page><title>{0}</title><ns>0</ns><revision><text>{0}</text></revision></page>"
    inner = "<page><!DOCTYPE page [<!ENTITY a 'ha'>]><title>&a;</title></page>"
    write(tmp_path, {"a.xml": bomb + page.format("&b;") + page.format("&x;") + inner + page.format("fine")})
    rows = rows_of(source("mediawiki", "text"), tmp_path)
    assert [row.status for row in rows] == ["bad_row", "bad_row", "bad_row", "ok"]


def test_a_page_longer_than_the_limit_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mediawiki, "PAGE_BYTES", 200)
    monkeypatch.setattr(mediawiki, "_READ", 50)
    page = "<page><title>{0}</title><ns>0</ns><revision><text>{1}</text></revision></page>"
    write(tmp_path, {"a.xml": page.format("a", "x" * 5000) + page.format("b", "fine")})
    rows = rows_of(source("mediawiki", "text"), tmp_path)
    assert [row.status for row in rows] == ["too_large", "ok"]


def test_a_stream_that_unpacks_to_absurdly_much_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mediawiki, "STREAM_BYTES", 10_000)
    page = b"<page><title>a</title><ns>0</ns><revision><text>fine</text></revision></page>"
    write(tmp_path, {"multistream.xml.bz2": bz2.compress(bytes(1 << 20)) + bz2.compress(page)})
    rows = rows_of(source("mediawiki", "text"), tmp_path)
    assert [row.status for row in rows] == ["bad_row", "ok"]


@pytest.mark.parametrize("text", ["{{" * 3000, "[[" * 3000, "'''" * 3001, "<b>" * 3000, "{|" * 2000, "\ufffe\ud7ff"])
def test_hostile_markup_ends(text: str) -> None:
    assert isinstance(strip_markup(text, MediaWikiOptions()), str)
