"""URL lists on their way into landing: places, units, lanes, robots.txt, retries, and lists that change."""

from __future__ import annotations

import hashlib
import json
import socket
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imglish.errors import RecipeError
from imglish.ingest.addresses import clean_url, host_of
from imglish.ingest.hosts import URL_BITS, Buckets, bucket_bits, bucket_of, cut, place_of
from imglish.ingest.land import land, land_units, landing_files
from imglish.ingest.lanes import Work, _landed_before, _Overlap, cut_lanes, lane_unit
from imglish.ingest.listing import Listed, common_hosts, listed, listed_table, listed_tables
from imglish.ingest.retries import LiveRates, matches, parse_classes
from imglish.ingest.sources.urls import UrlList
from imglish.recipe import FetchConfig, Recipe, SourceConfig, make_recipe
from imglish.records import LANDING, table, unpack_json
from imglish.stages import Receipt, counts_of
from imglish.storage import Store
from imglish.walk import NoEngine, WatchedStore
from tests.ingest.engine_helpers import Inline
from tests.ingest.source_helpers import write
from tests.ingest.web_helpers import Web, body, image_bytes, never, redirect, status

URL_OF_ALL = "https://x.example/a.jpg"
JPEG = image_bytes()
PNG = image_bytes("PNG")
QUICK = {"deadline": 1.0, "retries": 0, "host_delay": 0.0, "backoff": 0.01}


@pytest.fixture
def web() -> Iterator[Web]:
    with Web({"/a.jpg": body(JPEG), "/b.png": body(PNG), "/page": body(b"<html>"), "/never": never}) as server:
        yield server


def lists(tmp_path: Path, web: Web, **urls: list[str]) -> None:
    rows = {name: [[url, f"{name} {n}"] for n, url in enumerate(found)] for name, found in urls.items()}
    text = {
        name: "url,caption\n" + "".join(f"{url},{caption}\n" for url, caption in found) for name, found in rows.items()
    }
    write(tmp_path, {f"{name}.csv": content for name, content in text.items()})


def recipe(tmp_path: Path, web: Web, *names: str, **fetch: Any) -> Recipe:
    given = [{"name": n, "path": f"data/{n}.csv", "format": "url-list", "kind": "pair"} for n in names or ("s0",)]
    config = {**QUICK, "allow_private": [web.host], **fetch}
    base = {"name": "test", "root": str(tmp_path), "work": str(tmp_path / "work")}
    return make_recipe({**base, "source": given, "fetch": config})


def landed(made: Recipe, receipts: list[Receipt]) -> dict[str, dict[str, Any]]:
    """Rows by `<file>#<number in it>`; landing names them by the byte where their line begins."""
    store = Store(made.work)
    found = [row for file in landing_files(receipts) for row in store.read_table(file.path).to_pylist()]
    by_file: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in found:
        file, _, byte = row["row"].partition("#")
        by_file[file][int(byte)] = row
    return {
        f"{file}#{number}": rows[byte]
        for file, rows in sorted(by_file.items())
        for number, byte in enumerate(sorted(rows))
    }


def run(made: Recipe, **options: Any) -> dict[str, list[Receipt]]:
    return land(Store(made.work), Inline(), made, **options)


def test_a_url_list_lands_through_the_fetcher_with_receipts(tmp_path: Path, web: Web) -> None:
    with Web() as sentinel:
        web.answers["/moved"] = redirect("/a.jpg")
        paths = ["/a.jpg", "/gone", "/page", "/never", "/moved"]
        urls = [*map(web.url, paths), sentinel.url("/x"), ""]
        lists(tmp_path, web, s0=urls)
        made = recipe(tmp_path, web, unit_rows=4)
        receipts = run(made)["s0"]
        assert sentinel.connections == 0
    found = landed(made, receipts)
    words = ["ok", "http_404", "not_image", "timeout", "ok", "refused", "bad_row"]
    assert {name: row["status"] for name, row in found.items()} == {f"s0.csv#{n}": w for n, w in enumerate(words)}
    first, gone, moved, refused = (found[f"s0.csv#{n}"] for n in (0, 1, 4, 5))
    assert (first["payload"], first["attempts"], first["url"]) == (JPEG, 1, urls[0])
    headers = {"content-length": str(len(JPEG))}
    assert unpack_json(first["receipt"]) == {"url": urls[0], "code": 200, "sent": len(JPEG), "headers": headers}
    assert unpack_json(gone["receipt"])["code"] == 404
    assert unpack_json(moved["receipt"])["url"] == urls[0]
    assert (unpack_json(refused["receipt"])["code"], refused["attempts"]) == (None, 1)
    assert counts_of(receipts)["occurrences"] == 7
    assert web.requests["/robots.txt"] == 1
    other = recipe(tmp_path, web, unit_rows=4, timeout=3.0, threads=2, host_connections=1)
    assert [receipt.unit for receipt in run(other)["s0"]] == [receipt.unit for receipt in receipts]
    other = recipe(tmp_path, web, unit_rows=4, max_bytes=5)
    assert not {receipt.unit for receipt in run(other)["s0"]} & {receipt.unit for receipt in receipts}


def test_landing_a_list_twice_asks_nobody_and_a_killed_lane_keeps_its_units(tmp_path: Path, web: Web) -> None:
    urls = [web.url(f"/{n}.jpg") for n in range(12)]
    web.answers |= {f"/{n}.jpg": body(image_bytes(side=n + 1)) for n in range(12)}
    lists(tmp_path, web, s0=urls)
    made = recipe(tmp_path, web, unit_rows=3, host_connections=1)
    receipts = run(made)["s0"]
    assert len(receipts) >= 4
    asked = sum(web.requests.values())
    engine = Inline()
    assert land(Store(made.work), engine, made)["s0"] == receipts
    assert (engine.units, sum(web.requests.values())) == ([], asked)
    lost = receipts[1]
    Store(made.work).remove(f"landing/receipts/land/{lost.unit}.json")
    again = run(made)["s0"]
    assert [receipt.outputs for receipt in again] == [receipt.outputs for receipt in receipts]
    assert sum(web.requests.values()) - asked == lost.counts["occurrences"]


def test_a_longer_list_fetches_only_what_is_new(tmp_path: Path, web: Web) -> None:
    web.answers |= {f"/{n}.jpg": body(image_bytes(side=n + 1)) for n in range(20)}
    urls = [web.url(f"/{n}.jpg") for n in range(20)]
    lists(tmp_path, web, s0=[*urls[:10], web.url("/gone")])
    made = recipe(tmp_path, web, unit_rows=4)
    run(made)
    lists(tmp_path, web, s0=[*urls[:10], web.url("/gone"), *urls[10:]])
    found = landed(made, run(made)["s0"])
    assert Counter(row["status"] for row in found.values()) == {"ok": 20, "http_404": 1}
    assert all(web.requests[f"/{n}.jpg"] == 1 for n in range(20))
    assert web.requests["/gone"] == 1
    assert unpack_json(found["s0.csv#3"]["captions"]) == ["s0 3"]


def test_two_lists_share_their_hosts_but_not_their_units(tmp_path: Path, web: Web) -> None:
    lists(tmp_path, web, s0=[web.url("/a.jpg")], s1=[web.url("/a.jpg"), web.url("/b.png")])
    made = recipe(tmp_path, web, "s0", "s1")
    engine = Inline()
    found = land(Store(made.work), engine, made)
    assert [unit.stage for unit in engine.units] == ["list", "list", "robots", "fetch"]
    assert {name: [receipt.counts["occurrences"] for receipt in done] for name, done in found.items()} == {
        "s0": [1],
        "s1": [2],
    }
    assert web.requests["/a.jpg"] == 1


def test_retry_fetches_what_failed_by_class_and_leaves_the_rest(tmp_path: Path, web: Web) -> None:
    answers = {"/500": status(500), "/503": status(503), "/404": status(404)}
    web.answers |= answers
    lists(tmp_path, web, s0=[web.url(path) for path in ("/a.jpg", "/500", "/503", "/404")])
    made = recipe(tmp_path, web)
    before = landed(made, run(made)["s0"])
    web.answers |= dict.fromkeys(answers, body(PNG))
    asked = dict(web.requests)
    found = landed(made, run(made, again=["500"])["s0"])
    assert [row["status"] for row in found.values()] == ["ok", "ok", "http_503", "http_404"]
    assert found["s0.csv#0"] == before["s0.csv#0"]
    assert (found["s0.csv#1"]["attempts"], found["s0.csv#1"]["payload"]) == (2, PNG)
    assert {path: web.requests[path] - asked[path] for path in ("/a.jpg", "/500", "/503", "/404")} == {
        "/a.jpg": 0, "/500": 1, "/503": 0, "/404": 0,
    }  # fmt: skip
    found = landed(made, run(made, again=["transient"])["s0"])
    assert [row["status"] for row in found.values()] == ["ok", "ok", "ok", "http_404"]
    again = landed(made, run(made)["s0"])
    assert again == found
    assert [row["status"] for row in landed(made, run(made, again=["all"])["s0"]).values()] == ["ok"] * 4


def test_classes_of_failures() -> None:
    assert parse_classes("timeout, 5xx,404") == ["timeout", "5xx", "404"]
    with pytest.raises(RecipeError, match="no failure class 'timeuot'; known are timeout"):
        parse_classes("timeuot")
    assert [matches("http_503", [name]) for name in ("5xx", "503", "transient", "all", "4xx", "timeout")] == [
        True, True, True, True, False, False,
    ]  # fmt: skip
    assert not any(matches(word, ["all"]) for word in ("ok", "bad_row", "no_caption", "forgotten"))


def test_live_rates_name_the_commonest_failures() -> None:
    lines: list[str] = []
    live = LiveRates(lines.append)
    live({"occurrences": 8, "status/ok": 6, "status/http_404": 1, "status/timeout": 1})
    live.end()
    assert lines == ["fetch: 8 URLs, 75.0% ok, 12.5% http_404, 12.5% timeout"]


ROBOTS = "User-agent: *\nDisallow: /private/\n\nUser-agent: imglish\nDisallow: /no-imglish/\nCrawl-delay: 0.01\n"


def robots_statuses(tmp_path: Path, web: Web, *paths: str, **fetch: Any) -> list[str]:
    web.answers |= dict.fromkeys(paths, body(JPEG))
    lists(tmp_path, web, s0=[web.url(path) for path in paths])
    made = recipe(tmp_path, web, **fetch)
    return [row["status"] for row in landed(made, run(made)["s0"]).values()]


def test_robots_txt_is_fetched_once_and_obeyed(tmp_path: Path, web: Web) -> None:
    web.answers["/robots.txt"] = body(ROBOTS.encode())
    paths = ["/no-imglish/a.jpg", "/private/a.jpg", "/x.jpg"]
    assert robots_statuses(tmp_path, web, *paths, unit_rows=1) == ["robots_disallowed", "ok", "ok"]
    assert (web.requests["/robots.txt"], web.requests["/no-imglish/a.jpg"]) == (1, 0)
    store = Store(tmp_path / "work")
    (path,) = [path for path in store.files("landing/robots") if path.endswith(".parquet")]
    (row,) = store.read_table(path).to_pylist()
    assert (row["origin"], row["verdict"], row["sha256"]) == (
        f"http://{web.host}", "rules", hashlib.sha256(ROBOTS.encode()).digest(),
    )  # fmt: skip
    assert row["fetched"] > 1_700_000_000


def test_a_redirect_into_what_robots_txt_disallows_is_not_followed(tmp_path: Path, web: Web) -> None:
    web.answers |= {"/robots.txt": body(ROBOTS.encode()), "/no-imglish/a.jpg": body(JPEG)}
    web.answers["/hop"] = redirect("/no-imglish/a.jpg")
    lists(tmp_path, web, s0=[web.url("/hop")])
    made = recipe(tmp_path, web)
    assert [row["status"] for row in landed(made, run(made)["s0"]).values()] == ["robots_disallowed"]
    assert web.requests["/no-imglish/a.jpg"] == 0


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (status(404), "ok"),
        (status(403), "ok"),
        (redirect("/robots.txt"), "ok"),
        (status(500), "robots_unreachable"),
        (status(429), "robots_unreachable"),
        (never, "robots_unreachable"),
        (redirect("http://10.0.0.1/robots.txt"), "robots_unreachable"),
        (body(b"User-agent: *\nDisallow: /\n"), "robots_disallowed"),
        (body(b"\xff\xfe\0junk\0" * 50), "ok"),
        (body(b"User-agent: *\nDisallow: /\n" + b"# long\n" * 100_000), "robots_disallowed"),
    ],
)
def test_robots_txt_that_cannot_be_had(tmp_path: Path, web: Web, answer: Any, word: str) -> None:
    web.answers["/robots.txt"] = answer
    assert robots_statuses(tmp_path, web, "/x.jpg") == [word]
    assert web.requests["/x.jpg"] == (word == "ok")


def test_robots_txt_is_not_asked_for_when_the_recipe_says_so(tmp_path: Path, web: Web) -> None:
    web.answers["/robots.txt"] = body(b"User-agent: *\nDisallow: /\n")
    assert robots_statuses(tmp_path, web, "/x.jpg", robots=False) == ["ok"]
    assert web.requests["/robots.txt"] == 0


def test_retry_of_unreachable_robots_fetches_them_anew(tmp_path: Path, web: Web) -> None:
    web.answers["/robots.txt"] = status(503)
    assert robots_statuses(tmp_path, web, "/x.jpg") == ["robots_unreachable"]
    web.answers["/robots.txt"] = status(404)
    made = recipe(tmp_path, web)
    assert [row["status"] for row in landed(made, run(made)["s0"]).values()] == ["robots_unreachable"]
    found = landed(made, run(made, again=["robots_unreachable"])["s0"])
    assert [row["status"] for row in found.values()] == ["ok"]


def test_a_pair_without_captions_is_not_asked_for(tmp_path: Path, web: Web) -> None:
    write(tmp_path, {"s0.csv": f"url,caption\n{web.url('/a.jpg')},\n{web.url('/b.png')},x\n"})
    made = recipe(tmp_path, web)
    found = landed(made, run(made)["s0"])
    assert [row["status"] for row in found.values()] == ["no_caption", "ok"]
    assert web.requests["/a.jpg"] == 0


@given(st.lists(st.integers(0, 40), min_size=1, max_size=400), st.integers(1, 12))
def test_every_row_is_in_one_piece_and_every_host_in_one_range(hosts: list[int], unit_rows: int) -> None:
    urls = [f"http://h{host}.example/{n}" for n, host in enumerate(hosts)]
    places = np.sort(np.array([place_of(host_of(url), url) for url in urls], np.int64))
    pieces = list(cut(places, unit_rows))
    assert sorted(np.concatenate([piece.rows for piece in pieces]).tolist()) == list(range(len(urls)))
    assert all(piece.first <= place < piece.last for piece in pieces for place in places[piece.rows].tolist())
    whole = [set((places[piece.rows] >> URL_BITS).tolist()) for piece in pieces if not piece.parts]
    parts = [set((places[piece.rows] >> URL_BITS).tolist()) for piece in pieces if piece.parts]
    assert sum(map(len, whole)) == len(set().union(*whole))
    assert all(len(hosts_of_part) == 1 for hosts_of_part in parts)
    assert not set().union(*whole) & set().union(*parts)
    assert all(len(piece.rows) <= unit_rows for piece in pieces if not piece.parts)


@given(st.sets(st.integers(0, 5000), min_size=200, max_size=600), st.integers(0, 5000))
def test_one_row_more_changes_one_unit_or_splits_it(numbers: set[int], more: int) -> None:
    def units(chosen: set[int]) -> set[tuple[int, ...]]:
        urls = [f"http://h{n % 997}.example/{n}" for n in chosen]
        places = np.sort(np.array([place_of(host_of(url), url) for url in urls], np.int64))
        return {tuple(places[piece.rows].tolist()) for piece in cut(places, 50)}

    assert len(units(numbers) - units(numbers | {more})) <= 1


def test_buckets_cut_places_by_their_leading_bits() -> None:
    assert [bucket_bits(rows, 100) for rows in (0, 1, 100, 101, 200, 201, 401)] == [0, 0, 0, 1, 1, 2, 3]
    places = np.array([0, (1 << 63) - 1, 1 << 62], np.int64)
    assert bucket_of(places, 2).tolist() == [0, 3, 2]
    assert bucket_of(places, 0).tolist() == [0, 0, 0]


def test_a_large_host_has_buckets_of_its_own_and_its_units_stay() -> None:
    urls = [f"http://h{n % 3 and n}.example/{n}" for n in range(3000)]  # every third row is of h0
    places = np.sort(np.array([place_of(host_of(url), url) for url in urls], np.int64))
    host = place_of("h0.example", "") >> URL_BITS
    buckets = Buckets.plan(3000, {host: 1000, 5: 250}, bucket_rows=250, unit_rows=20)
    assert buckets == Buckets(4, ((host, 2),))
    found = buckets.of(places)
    assert [len(group) for group in buckets.groups()] == [1] * 16 + [4]
    assert set((places[found >= 16] >> URL_BITS).tolist()) == {host} and (found >= 16).sum() == 1000
    units = set()
    for bucket in range(20):
        mine = places[found == bucket]
        units |= {tuple(mine[piece.rows].tolist()) for piece in buckets.cut(bucket, mine, 20)}
    alone = Buckets(4)
    whole = [places[alone.of(places) == bucket] for bucket in range(16)]
    assert units == {
        tuple(mine[piece.rows].tolist()) for bucket, mine in enumerate(whole) for piece in alone.cut(bucket, mine, 20)
    }


def test_only_hosts_with_a_large_share_of_a_part_are_counted() -> None:
    hosts = np.repeat([3, 1, 2], [100, 63, 200])
    assert common_hosts([hosts, hosts[-200:]]) == [[2, 400], [3, 100]]
    assert common_hosts([np.arange(300_000) % 3000, np.full(200, 7)]) == [[7, 300]]
    assert common_hosts([]) == []


def test_the_buckets_of_a_large_host_show_neither_in_landing_nor_at_the_host(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [web.url(f"/{n}") for n in range(120)]
    web.answers |= {f"/{n}": body(JPEG) for n in range(120)}
    units, files = [], []
    for rows in (1 << 16, 32):
        monkeypatch.setattr("imglish.ingest.listing.BUCKET_ROWS", rows)
        lists(tmp_path, web, s0=urls)
        made = recipe(tmp_path, web, unit_rows=8, host_connections=2)
        made = made.model_copy(update={"work": str(tmp_path / f"work-{rows}")})
        receipts = run(made)["s0"]
        assert counts_of(receipts)["status/ok"] == 120
        units.append({(receipt.unit, receipt.notes["places"]) for receipt in receipts})
        found, groups = listed(Store(made.work), Inline(), land_units(made, made.source[0]), 8)
        assert {unit.hosts for unit in found} == {len(groups) - 1}
        assert {(unit.part, unit.parts) for unit in found} == {(n, len(found)) for n in range(len(found))}
        assert len({unit.piece for unit in found}) == len(found)
        files.append([len(group) for group in groups])
    assert units[0] == units[1] and len(units[0]) > 12
    assert files == [[1], [1, 1, 1, 1, 4]]
    assert web.requests["/robots.txt"] == 2


def test_a_place_does_not_drift() -> None:
    assert place_of("example.org", "https://example.org/cat.jpg") == 926995538354705415


@pytest.mark.parametrize(
    "url", ["http://EXAMPLE.org/a", "https://b\xfccher.example:8080/x", "http://[::1]/", "http://1.2.3.4?q"]
)
def test_the_host_of_a_url_is_that_of_the_cleaned_one(url: str) -> None:
    assert host_of(url) == host_of(clean_url(url)) != ""


def works(*shapes: tuple[int, int, int, int]) -> list[Work]:
    config = SourceConfig(name="s", format="url-list", kind="image", path=".")
    return [
        Work(str(n), config, Listed("s", 0, 0, rows, "", n, piece, part, parts, "", 0), [])
        for n, (piece, part, parts, rows) in enumerate(shapes)
    ]


def test_a_large_host_has_as_many_lanes_as_connections_at_a_divided_rate() -> None:
    config = FetchConfig(host_connections=3, host_delay=0.1)
    made = works(
        (0, 0, 0, 5), (1, 0, 7, 9), (2, 1, 7, 9), (3, 2, 7, 9), (4, 3, 7, 9), (5, 4, 7, 9), (6, 5, 7, 9), (7, 6, 7, 9)
    )
    lanes = list(cut_lanes(made, config.host_connections))
    assert [[work.unit for work in lane] for lane in lanes] == [["1", "4", "7"], ["2", "5"], ["3", "6"], ["0"]]
    shares = [lane_unit(lane, None, config).spec["share"] for lane in lanes]
    assert [(share.connections, round(share.delay, 3)) for share in shares] == [(1, 0.3)] * 3 + [(3, 0.1)]
    assert sum(share.connections for share in shares[:3]) <= config.host_connections


def test_list_units_do_not_change_with_the_fetch(tmp_path: Path, web: Web) -> None:
    lists(tmp_path, web, s0=[web.url("/a.jpg")])
    first, second = (recipe(tmp_path, web, max_bytes=size) for size in (10, 20))
    assert land_units(first, first.source[0])[0].id == land_units(second, second.source[0])[0].id


def test_expected_digests_are_verified_on_what_landed_before_too(tmp_path: Path, web: Web) -> None:
    good = hashlib.sha256(JPEG).hexdigest()
    for digest, word in ((good, "ok"), ("0" * 64, "sha256_mismatch"), (good.upper(), "ok")):
        write(tmp_path, {"s0.csv": f"url,caption,sum\n{web.url('/a.jpg')},x,{digest}\n"})
        made = recipe(tmp_path, web)
        options = made.source[0].model_copy(update={"options": {"sha256": "sum"}})
        made = made.model_copy(update={"source": (options,)})
        assert [row["status"] for row in landed(made, run(made)["s0"]).values()] == [word]
    assert web.requests["/a.jpg"] == 3


def test_at_most_so_many_connections_to_a_host_at_once(tmp_path: Path, web: Web) -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def counted(server: Web, client: socket.socket) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1  # before the answer, after which the client may ask again
        body(JPEG)(server, client)

    urls = [web.url(f"/{n}") for n in range(30)]
    web.answers |= {f"/{n}": counted for n in range(30)}
    lists(tmp_path, web, s0=urls)
    made = recipe(tmp_path, web, host_connections=2, threads=16)
    assert counts_of(run(made)["s0"])["status/ok"] == 30
    assert most[0] <= 2
    index = json.loads(Store(made.work).read("landing/index.json"))
    assert list(index) == ["s0"]


def test_robots_txt_stays_as_evidence_when_nothing_is_to_do(tmp_path: Path, web: Web) -> None:
    lists(tmp_path, web, s0=[web.url("/a.jpg")])
    made = recipe(tmp_path, web)
    run(made)
    watched = WatchedStore(made.work)
    land(watched, NoEngine(), made)
    assert [path for path in watched.seen if "/receipts/robots/" in path]


_CELLS = st.one_of(st.none(), st.text(max_size=12), st.sampled_from(['say "x"', "a\\b\n", "\u2028", "", " ", "\x7f"]))
_URLS = st.one_of(
    _CELLS,
    st.sampled_from(
        [
            "http://a.example/1",
            "HTTPS://a.example",
            "http://A.example:80?x",
            "http://b\xfccher.example/",
            "http://[::1]/x",
            " http://a.example/2",
            "http://a.example\n",
            "ftp://a.example/",
        ]
    ),
)
_DIGESTS = st.one_of(st.none(), st.sampled_from(["", "00ff", "ABCD", " 12 ", "no digest"]))


@settings(max_examples=60)
@given(st.lists(st.tuples(_URLS, _CELLS, _CELLS, _CELLS, _DIGESTS), min_size=1, max_size=20), st.booleans())
def test_a_list_by_columns_is_the_list_row_by_row(cells: list[tuple[str | None, ...]], pairs: bool) -> None:
    names = ["url", "english", "german", "licence", "digest"]
    columns = {
        name: pa.array(column, pa.string()) for name, column in zip(names, zip(*cells, strict=True), strict=True)
    }
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table(columns), f"{folder}/list.parquet", row_group_size=7)
        options = {"captions": ["english", "german"], "licence": "licence", "sha256": "digest"}
        source = {"name": "s", "format": "url-list", "kind": "pair" if pairs else "image", "path": "list.parquet"}
        given = {"name": "t", "root": folder, "work": folder, "source": [source | {"options": options}]}
        config = make_recipe(given).source[0]
        found = UrlList(unit_rows=5)
        parts = found.parts(config, folder)
        by_column = pa.concat_tables([table for part in parts for table, _ in listed_tables(found, config, part)])
        by_row = listed_table("s", [row for part in parts for row in found.rows(config, part)])
    assert by_column.sort_by("row") == by_row.sort_by("row")


_LINES = st.lists(
    st.lists(
        st.one_of(
            st.sampled_from(
                [b"http://a.example/1", b"say", b'"', b"\xff", b"\r", b"\t", b",", b"\xc3\xa9", b" ", b"\x00"]
            ),
            st.binary(max_size=3).filter(lambda text: b"\n" not in text),
        ),
        max_size=6,
    ).map(b"".join),
    max_size=12,
)


@settings(max_examples=100)
@given(_LINES, st.sampled_from(["csv", "tsv"]), st.booleans(), st.sampled_from([b"\n", b"\r\n"]))
def test_delimited_lines_by_columns_are_the_lines_one_by_one(
    lines: list[bytes], form: str, header: bool, end: bytes
) -> None:
    comma = b"," if form == "csv" else b"\t"
    with tempfile.TemporaryDirectory() as folder:
        first = [comma.join([b"url", b"caption", b"url"])] if header else []  # of two columns of a name the last counts
        Path(folder, f"list.{form}").write_bytes(end.join([*first, *lines]))
        options = {} if header else {"header": ["url", "caption"]}
        source = {"name": "s", "format": "url-list", "kind": "pair", "path": f"list.{form}", "options": options}
        config = make_recipe({"name": "t", "root": folder, "work": folder, "source": [source]}).source[0]
        found = UrlList(unit_rows=5)
        parts = found.parts(config, folder)
        by_column = [table for part in parts for table, _ in listed_tables(found, config, part)]
        by_row = listed_table("s", [row for part in parts for row in found.rows(config, part)])
    assert pa.concat_tables([by_row.slice(0, 0), *by_column]).sort_by("row") == by_row.sort_by("row")


def test_a_list_by_columns_breaks_off_where_the_rows_do(tmp_path: Path) -> None:
    urls = [f"http://h{n}.example/".encode() for n in range(3000)]
    urls[2000] = b"http://\xff.example/"  # no UTF-8, which Parquet does not check
    raw = pa.array(urls, pa.binary())
    url = pa.StringArray.from_buffers(len(raw), *raw.buffers()[1:])
    pq.write_table(pa.table({"url": url}), tmp_path / "list.parquet")
    source = {"name": "s", "format": "url-list", "kind": "image", "path": "list.parquet"}
    config = make_recipe({"name": "t", "root": str(tmp_path), "work": str(tmp_path), "source": [source]}).source[0]
    (part,) = UrlList().parts(config, str(tmp_path))
    table = pa.concat_tables([table for table, _ in listed_tables(UrlList(), config, part)])
    assert Counter(table.column("status").to_pylist()) == {"to_fetch": 1024, "bad_row": 1}


spans = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted)


@given(st.lists(spans, max_size=12), spans)
def test_units_that_share_places_are_those_of_a_loop(earlier: list[list[int]], asked: list[int]) -> None:
    receipts = [
        Receipt(str(n), "land", {}, {}, {"places": f"{first:016x}-{last:016x}"})
        for n, (first, last) in enumerate(earlier)
    ]
    unit = Listed("web", *asked, 1, "", 0, 0, 0, 0, "", 0)
    found = [receipt.unit for receipt in _Overlap(receipts).find(unit)]
    expected = [str(n) for n, (first, last) in enumerate(earlier) if first <= asked[1] and last >= asked[0]]
    assert sorted(found) == sorted(expected)


def test_of_earlier_landing_only_the_rows_asked_for_are_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    about = {"source": "s", "kind": "pair", "status": "ok", "url": URL_OF_ALL}
    rows = [about | {"row": f"r{n:04d}", "payload": bytes(1000), "bytes": 1000} for n in range(600)]
    paths = [store.put_table("landing", table(part, LANDING)).path for part in (rows[:300], rows[300:])]
    found = _landed_before(store, paths, ["r0007", "r0450", "r9999"])
    assert {name: len(row["payload"]) for name, row in found.items()} == {"r0007": 1000, "r0450": 1000}
    assert _landed_before(store, paths, []) == {}
