"""Fetch health: how well hosts answered, why URLs failed, and how links rot with their age, from landing's own tables.

    fetching(store)["host"]["example.org"]          # {"asked": 120, "ok": 97, "share": 0.808333}

Reads the columns url and status of the landing files that `landing/index.json` names; a corpus without its landing has
no such numbers. The age of a link is the year that its own path names, as in /2014/05/; most name none.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from imglish.audit.balance import HOST
from imglish.audit.histograms import share
from imglish.ingest.land import STAGE, landing_files, read_index
from imglish.ingest.landing import FOLDER
from imglish.receipts import find_receipts
from imglish.storage import Store

TOP_HOSTS = 100
"""Hosts that are named, those with the most URLs."""
_YEAR = r"/(?P<year>(?:19[89]|20[0-4])[0-9])(?:[/-]|$)"
NO_YEAR = "no year"


def fetching(store: Store) -> dict[str, Any]:
    """Counts over every occurrence with a URL; `sources` and `missing` name those whose files are and are not here."""
    index = read_index(store)
    hosts: Counter[tuple[str, bool]] = Counter()
    years: Counter[tuple[str, bool]] = Counter()
    statuses: Counter[str] = Counter()
    there: list[str] = []
    missing: list[str] = []
    for source, entry in sorted(index.items()):
        receipts = find_receipts(store, FOLDER, STAGE, entry["units"])
        (there if len(receipts) == len(entry["units"]) else missing).append(source)
        for output in landing_files(receipts.values()):
            rows = store.read_table(output.path, ["url", "status"])
            rows = rows.filter(pc.is_valid(rows.column("url")))
            if rows.num_rows:
                _count(rows, hosts, years, statuses)
    return {
        "sources": there,
        "missing": missing,
        "urls": sum(statuses.values()),
        "ok": statuses["ok"],
        "ok_share": share(statuses["ok"], sum(statuses.values())),
        "status": dict(sorted(statuses.items(), key=lambda item: (-item[1], item[0]))),
        "hosts": len({host for host, _ in hosts}),
        "host": _answered(hosts, TOP_HOSTS),
        "year": dict(sorted(_answered(years, len(years)).items())),
    }


def _count(
    rows: pa.Table, hosts: Counter[tuple[str, bool]], years: Counter[tuple[str, bool]], statuses: Counter[str]
) -> None:
    for item in pc.value_counts(rows.column("status")).to_pylist():
        statuses[item["values"]] += item["counts"]
    url = rows.column("url")
    host = pc.utf8_lower(pc.struct_field(pc.extract_regex(url, HOST), "host"))
    year = pc.struct_field(pc.extract_regex(url, _YEAR), "year")
    table = pa.table({"host": host, "year": year, "ok": pc.equal(rows.column("status"), "ok")})
    for row in table.group_by(["host", "year", "ok"]).aggregate([([], "count_all")]).to_pylist():
        hosts[row["host"] or "?", row["ok"]] += row["count_all"]
        years[row["year"] or NO_YEAR, row["ok"]] += row["count_all"]


def _answered(counts: Counter[tuple[str, bool]], most: int) -> dict[str, Any]:
    asked: Counter[str] = Counter()
    for (name, _), count in counts.items():
        asked[name] += count
    ordered = sorted(asked, key=lambda name: (-asked[name], name))[:most]
    return {
        name: {"asked": asked[name], "ok": counts[name, True], "share": share(counts[name, True], asked[name])}
        for name in ordered
    }
