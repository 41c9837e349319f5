"""Every figure of audit.json, slowly, from what the corpus was made of: tars, landing, decisions and receipts.

    python -m tests.audit.slow_audit corpus/manifest.json

Shares no code with `imglish.audit` and reads no metadata table: tars by `tarfile`, pictures by Pillow and OpenCV,
captions from landing with the decisions' edits, ids and codes from the members. One row at a time; for small corpora.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
import tarfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pyarrow.parquet as pq
import simplejpeg
import xxhash
from PIL import Image

KINDS = ("pair", "image", "text")
NAMES = {"pair": "pairs", "image": "images", "text": "texts"}
Row = dict[str, Any]
Place = tuple[str, str]


class Corpus:
    """All that was read, by occurrence and by sample."""

    def __init__(self, manifest_path: Path) -> None:
        self.folder = manifest_path.parent
        self.manifest = json.loads(manifest_path.read_bytes())
        self.landing = {(row["source"], row["row"]): row for row in self._landed()}
        self.decisions = [
            row
            for file in self.manifest["decisions"]["files"]
            for row in pq.read_table(self.folder / file["path"]).to_pylist()
        ]
        self.languages = {
            (row["source"], row["row"]): row["language"] for row in self._outputs("tables", "annotate", "rows")
        }
        self.members: dict[tuple[str, bytes], list[Row]] = defaultdict(list)
        for row in self.decisions:
            if row["verdict"] != "drop":
                self.members[row["sample_kind"], row["sample_id"]].append(row)
        for rows in self.members.values():
            rows.sort(key=lambda row: (row["priority"], row["source"], row["row"]))
        self.tar: dict[str, dict[str, bytes]] = defaultdict(dict)  # "p/<key>": field: payload
        self.documents: list[tuple[bytes, np.ndarray[Any, Any]]] = []  # record id, ids
        self.blocks = 0
        self._read_tars()

    def _receipts(self, folder: str, stage: str) -> Iterable[Row]:
        for path in sorted((self.folder / folder / "receipts" / stage).glob("*.json")):
            yield json.loads(path.read_bytes())

    def _outputs(self, folder: str, stage: str, name: str) -> Iterable[Row]:
        for receipt in self._receipts(folder, stage):
            yield from pq.read_table(self.folder / receipt["outputs"][name]["path"]).to_pylist()

    def _landed(self) -> Iterable[Row]:
        for receipt in self._receipts("landing", "land"):
            for output in receipt["outputs"].values():
                yield from pq.read_table(self.folder / output["path"]).to_pylist()

    def _read_tars(self) -> None:
        texts = sorted(record for kind, record in self.members if kind == "text")
        by_split = {record: self.members["text", record][0]["split"] for record in texts}
        counts = Counter(shard["split"] for shard in self.manifest["shards"])
        numbers: Counter[str] = Counter()
        for shard in self.manifest["shards"]:
            split, number = shard["split"], numbers[shard["split"]]
            numbers[split] += 1
            ids = b""
            with tarfile.open(self.folder / shard["path"]) as tar:
                for member in tar:
                    data = tar.extractfile(member).read()  # type: ignore[union-attr]
                    if re.fullmatch(r"t\d{6}\.ids", member.name):
                        ids += data
                    elif member.name != "__meta__/index":
                        name, _, field = member.name.partition(".")
                        self.tar[name][field] = data
            self.blocks += len(ids) // 1024
            mine = [
                r
                for r in texts
                if by_split[r] == split and int.from_bytes(r[:8], "big") * counts[split] >> 64 == number
            ]
            words = np.frombuffer(ids, "<u2")
            starts = np.flatnonzero(words == 0).tolist()
            assert len(starts) == len(mine), (len(starts), len(mine))
            for record, start, end in zip(mine, starts, [*starts[1:], len(words)], strict=True):
                document = words[start:end]
                self.documents.append((record, document[: int(np.flatnonzero(document == 2)[0]) + 1]))

    def captions(self, row: Row) -> list[str]:
        """Captions of an occurrence after its edits, folded."""
        received = json.loads(self.landing[row["source"], row["row"]]["captions"] or b"[]")
        edits = json.loads(row["edits"] or b"[]")
        found = []
        for number, text in enumerate(received):
            data = text.encode()
            for _, start, end, new in sorted((e for e in edits if e[0] == number), key=lambda e: -e[1]):
                data = data[:start] + new.encode() + data[end:]
            found.append(" ".join(data.decode().split()))
        return [text for text in found if text]

    def pair_captions(self, record: bytes) -> list[tuple[Row, str]]:
        """(occurrence that it came from, caption) of a pair, in order."""
        seen: dict[str, Row] = {}
        for row in self.members["pair", record]:
            for text in self.captions(row) if row["kind"] == "pair" else []:
                if text not in seen and len(seen) < self.manifest["recipe"]["pack"]["max_captions"]:
                    seen[text] = row
        return [(row, text) for text, row in seen.items()]

    def survivor(self, kind: str, record: bytes) -> Row:
        return next(row for row in self.members[kind, record] if row["verdict"] == "keep")

    def language(self, row: Row) -> str:
        return self.languages[row["source"], row["row"]] or "und"

    def licence(self, row: Row) -> str:
        return self.landing[row["source"], row["row"]]["licence"] or "not stated"


def audit(manifest_path: Path) -> dict[str, Any]:
    """The figures, under the names of audit.json."""
    corpus = Corpus(manifest_path)
    funnel = _funnel(corpus)
    return {
        "samples": _samples(corpus),
        "funnel": funnel,
        "duplicates": _duplicates(corpus),
        "privacy": _privacy(corpus, funnel),
        "contamination": _contamination(corpus, funnel),
        **{NAMES[kind]: _balance(corpus, kind) for kind in KINDS},
        "identity": _identity(corpus),
        "pictures": _pictures(corpus),
        "captions": _captions(corpus),
        **_tokens(corpus),
        "fertility": _fertility(corpus),
        "fetch": _fetch(corpus),
    }


def _samples(corpus: Corpus) -> dict[str, Any]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for (kind, record), rows in corpus.members.items():
        split = rows[0]["split"]
        if kind != "text":
            found[split][kind] += 1
        if kind == "pair":
            found[split]["captions"] += len(corpus.pair_captions(record))
    for split in found:
        ids = sum(len(ids) for record, ids in corpus.documents if corpus.members["text", record][0]["split"] == split)
        shards = [s for s in corpus.manifest["shards"] if s["split"] == split]
        found[split]["text"] = sum(s["distinct"]["text"] for s in shards)
        assert 0 <= found[split]["text"] * 512 - ids < 512 * len(shards)
    return {split: {k: counts[k] for k in (*KINDS, "captions")} for split, counts in found.items()}


def _flow(rows: Sequence[Row]) -> dict[str, int]:
    verdicts = Counter(row["verdict"] for row in rows)
    counts = {"kept": verdicts["keep"], "merged": verdicts["merge"], "dropped": verdicts["drop"]}
    return {"occurrences": len(rows), **counts, "edited": sum(row["edits"] is not None for row in rows)}


def _funnel(corpus: Corpus) -> dict[str, Any]:
    rows = corpus.decisions
    source: dict[str, Any] = {}
    for name in {row["source"] for row in rows}:
        for kind in {row["kind"] for row in rows if row["source"] == name}:
            mine = [row for row in rows if (row["source"], row["kind"]) == (name, kind)]
            rules = Counter(row["rule"] for row in mine if row["verdict"] == "drop")
            source.setdefault(name, {})[kind] = {**_flow(mine), "rule": dict(rules)}
    bits = {row["fired"] & -row["fired"]: row["rule"] for row in rows if row["verdict"] == "drop" and row["fired"]}
    bits |= {1 << place: one["rule"] for place, one in enumerate(corpus.manifest["decisions"]["rules"])}
    figures: dict[str, Any] = defaultdict(lambda: defaultdict(Counter))
    for row in rows:
        hits = (
            [(row["rule"], {"drop": "dropped", "merge": "merged"}[row["verdict"]])] if row["verdict"] != "keep" else []
        )
        hits += [(name, "fired") for bit, name in bits.items() if row["fired"] & bit]
        hits += [(bits[row["fired"]], "alone")] if row["fired"] in bits else []
        for rule, figure in hits:
            figures[rule][row["source"], row["kind"]][figure] += 1
    names = ("dropped", "merged", "fired", "alone")
    rule = {}
    for name, cells in figures.items():
        nested: dict[str, Any] = {}
        for (of, kind), counts in cells.items():
            nested.setdefault(of, {})[kind] = {figure: counts[figure] for figure in names}
        rule[name] = {figure: sum(counts[figure] for counts in cells.values()) for figure in names} | {"source": nested}
    payload = [row for row in rows if row["verdict"] == "drop" and row["rule"].startswith("payload@")]
    statuses = Counter(re.match(r"[a-z0-9_]+", row["detail"])[0] for row in payload)  # type: ignore[index]
    return {**_flow(rows), "source": source, "rule": rule, "payload": dict(statuses)}


def _duplicates(corpus: Corpus) -> dict[str, Any]:
    found: dict[str, Counter[Place]] = defaultdict(Counter)
    for row in corpus.decisions:
        if row["other_row"] is not None:
            found[row["rule"]][row["other_source"], row["other_row"]] += 1
    return {
        rule: {
            "groups": len(groups),
            "occurrences": sum(groups.values()),
            "sizes": _spread(count + 1 for count in groups.values()),
            "largest": [
                {"source": source, "row": row, "size": count + 1}
                for (source, row), count in sorted(groups.items(), key=lambda item: (-item[1], item[0]))[:8]
            ],
        }
        for rule, groups in found.items()
    }


def _privacy(corpus: Corpus, funnel: Row) -> dict[str, Any]:
    edits = [edit for row in corpus.decisions for edit in json.loads(row["edits"] or b"[]")]
    mark = r"<(email|ip|phone|card|iban)(?:-[0-9a-f]{8})?>"
    pieces = Counter(name for edit in edits for name in re.findall(mark, edit[3]))
    touched = [r for r in corpus.decisions if any(re.search(mark, e[3]) for e in json.loads(r["edits"] or b"[]"))]
    wishes = ("opted_out", "robots_disallowed", "robots_unreachable", "forgotten")
    return {
        "edits": len(edits),
        "redacted": {"occurrences": len(touched), "pieces": dict(pieces)},
        "wishes": {name: funnel["payload"].get(name, 0) for name in wishes},
        "tombstones": len(corpus.manifest["tombstones"]),
        "rule": {
            one["rule"]: {name: funnel["rule"].get(one["rule"], {}).get(name, 0) for name in ("dropped", "fired")}
            for one in corpus.manifest["decisions"]["rules"]
            if re.match(r"(pii|nsfw)@", one["rule"])
        },
        "robots": corpus.manifest["recipe"]["fetch"]["robots"],
        "opt_outs": corpus.manifest["recipe"]["fetch"]["opt_outs"],
    }


def _contamination(corpus: Corpus, funnel: Row) -> dict[str, Any]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    matches = []
    for row in corpus.decisions:
        if row["verdict"] == "drop" and row["rule"].startswith("contaminated@"):
            detail, _, name = row["detail"].rpartition(" of evaluation set ")
            found[name][row["kind"]] += 1
            told = {key: row[key] for key in ("source", "row", "kind", "score", "threshold")}
            matches.append(told | {"set": name, "detail": detail})
    match = corpus.manifest["recipe"]["match"]
    return {
        "dropped": sum(c.total() for c in found.values()),
        "fired": sum(cell["fired"] for rule, cell in funnel["rule"].items() if rule.startswith("contaminated@")),
        "set": {k: dict(c) for k, c in found.items()},
        "matches": sorted(matches, key=lambda m: (-m["score"], m["source"], m["row"]))[:20],
        "checked": [{name: one.get(name) for name in ("name", "path", "texts")} for one in match["evaluation"]],
        "limits": match["leak"],
    }


def _identity(corpus: Corpus) -> dict[str, Any]:
    shards, names = corpus.manifest["shards"], ("name", "version", "views", "images", "libraries")
    return {
        "licences": _licences(corpus),
        "shards": len(list((corpus.folder / "shards").rglob("*.tar"))),
        "bytes": sum((corpus.folder / shard["path"]).stat().st_size for shard in shards),
        **{name: corpus.manifest[name] for name in names},
    }


def _balance(corpus: Corpus, kind: str) -> dict[str, Any]:
    unit = "documents" if kind == "text" else "samples"
    axes: dict[str, dict[str, Counter[str]]] = {
        axis: defaultdict(Counter) for axis in ("source", "language", "licence")
    }
    languages: dict[str, Counter[str]] = defaultdict(Counter)
    domains: dict[str, Counter[str]] = defaultdict(Counter)
    names = {"source": lambda row: row["source"], "language": corpus.language, "licence": corpus.licence}

    def count(row: Row, figure: str, number: int, only: Sequence[str] = ("source", "language", "licence")) -> None:
        for axis in only:
            axes[axis][names[axis](row)][figure] += number

    ids_of = dict(corpus.documents)
    for (found, record), rows in corpus.members.items():
        if found != kind:
            continue
        survivor = corpus.survivor(kind, record)
        key = f"{'p' if kind == 'pair' else 'i'}/{record.hex()}"
        count(survivor, unit, 1)
        languages[survivor["source"]][corpus.language(survivor)] += 1
        for row in rows:
            count(row, "occurrences", 1)
            host = urlsplit(corpus.landing[row["source"], row["row"]]["url"] or "").hostname
            if host:
                domains[host]["occurrences"] += 1
                domains[host][unit] += row is survivor
        if kind != "text":
            count(survivor, "codes", len(corpus.tar[key]["codes"]) // 2, ("source", "language"))
        if kind == "text":
            count(survivor, "ids", len(ids_of[record]), ("source", "language"))
        if kind == "pair":
            captions = corpus.pair_captions(record)
            assert corpus.tar[key]["txt"].decode().split("\n") == [text for _, text in captions]
            for (row, _), ids in zip(captions, _split(corpus.tar[key]["ids"]), strict=True):
                count(row, "captions", 1)
                count(row, "ids", len(ids), ("source", "language"))
    extra = {"pair": ["captions"], "image": [], "text": []}[kind]
    tokens = {"pair": ["ids", "codes"], "image": ["codes"], "text": ["ids"]}[kind]
    figures = [unit, "occurrences", *extra]
    total = {name: sum(cell[name] for cell in axes["source"].values()) for name in (*figures, *tokens)}
    out: dict[str, Any] = {**total}
    for axis, cells in axes.items():
        shown = figures if axis == "licence" else [*figures, *tokens]
        out[axis] = {
            name: {**{f: cell[f] for f in shown}, "share": _share(cell[unit], total[unit])}
            for name, cell in cells.items()
        }
    for name, cell in out["source"].items():
        cell["languages"] = dict(languages[name])
    return {
        **out,
        "domains": len(domains),
        "domain": {h: {f: c[f] for f in (unit, "occurrences")} for h, c in domains.items()},
    }


def _licences(corpus: Corpus) -> dict[str, int]:
    return dict(Counter(corpus.licence(corpus.survivor(*sample)) for sample in corpus.members))


def _pictures(corpus: Corpus) -> dict[str, Any]:
    values: dict[str, list[int]] = defaultdict(list)
    for kind, record in corpus.members:
        if kind == "text":
            continue
        row = corpus.survivor(kind, record)
        width, height = Image.open(io.BytesIO(corpus.landing[row["source"], row["row"]]["payload"])).size
        jpeg = corpus.tar[f"{'p' if kind == 'pair' else 'i'}/{record.hex()}"]["jpg"]
        grey = simplejpeg.decode_jpeg(jpeg, "GRAY", fastdct=False)[:, :, 0]
        edges = [int(v) for v in cv2.Laplacian(grey, cv2.CV_16S).ravel()]
        mean = sum(edges) / len(edges)
        values["short_side"].append(min(width, height))
        values["long_side"].append(max(width, height))
        values["aspect_thousandths"].append(width * 1000 // height)
        values["stored_bytes"].append(len(jpeg))
        values["brightness"].append(sum(map(int, grey.ravel())) // grey.size)
        values["sharpness"].append(int(sum((v - mean) ** 2 for v in edges) / len(edges) + 1e-9))
    return {
        **{name: _spread(found) for name, found in values.items()},
        "nearly_black": sum(v < 16 for v in values["brightness"]),
        "nearly_white": sum(v > 239 for v in values["brightness"]),
        "blurred": sum(v < 100 for v in values["sharpness"]),
    }


def _captions(corpus: Corpus) -> dict[str, Any]:
    pairs = [corpus.pair_captions(record) for kind, record in corpus.members if kind == "pair"]
    whole = [text for found in pairs for _, text in found]
    counts = Counter(whole)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], xxhash.xxh3_64_intdigest(item[0].encode())))
    repeated = sorted((item for item in ranked[:20] if item[1] > 1), key=lambda item: (-item[1], item[0]))
    gave = [len({(row["source"], row["row"]) for row, _ in found}) for found in pairs]
    runs: dict[str, Any] = {"occurrences": sum(gave)}
    for length in (1, 2, 3):
        words = [_words(text.casefold()) for text in whole]
        found = Counter(" ".join(w[k : k + length]) for w in words for k in range(len(w) - length + 1))
        runs[str(length)] = [
            {"words": w, "count": c} for w, c in sorted(found.items(), key=lambda item: (-item[1], item[0]))[:15]
        ]
    return {
        "count": len(whole),
        "different": len(counts),
        "repeated_different": sum(c > 1 for c in counts.values()),
        "repeated_count": sum(c for c in counts.values() if c > 1),
        "repeated": [{"text": text, "count": count} for text, count in repeated],
        "words": _spread(len(text.split(" ")) for text in whole),
        "characters": _spread(map(len, whole)),
        "word_runs": runs,
    }


def _tokens(corpus: Corpus) -> dict[str, Any]:
    manifest = corpus.manifest
    pairs = [record for kind, record in corpus.members if kind == "pair"]
    captions = [_split(corpus.tar[f"p/{record.hex()}"]["ids"]) for record in pairs]
    documents = [ids for _, ids in corpus.documents]
    vocabulary, size = manifest["tokenizers"]["text"]["vocabulary"], manifest["tokenizers"]["visual"]["codes"]
    codes: dict[str, Counter[int]] = defaultdict(Counter)
    for kind, record in corpus.members:
        if kind != "text":
            name = f"{'p' if kind == 'pair' else 'i'}/{record.hex()}"
            codes[corpus.survivor(kind, record)["source"]].update(
                np.frombuffer(corpus.tar[name]["codes"], "<u2").tolist()
            )
    whole = sum(codes.values(), Counter())
    ranked = sorted(whole.items(), key=lambda item: (-item[1], item[0]))
    ids = sum(map(len, documents))
    return {
        "lengths": {
            "captions": _spread(map(len, captions)),
            "caption_ids": _spread(len(one) for found in captions for one in found),
            "document_ids": _spread(map(len, documents)),
        },
        "ids": {
            "captions": _ids([one for found in captions for one in found], vocabulary),
            "documents": _ids(documents, vocabulary),
        },
        "packing": {
            "blocks": corpus.blocks,
            "places": corpus.blocks * 512,
            "ids": ids,
            "efficiency": _share(ids, corpus.blocks * 512),
        },
        "codes": {
            "size": size,
            **_usage(whole, size),
            "top": [{"code": c, "count": k, "share": _share(k, whole.total())} for c, k in ranked[:12]],
            "ranks": [{"rank": rank, "count": ranked[rank - 1][1]} for rank in _ranks(size) if rank <= len(ranked)],
            "source": {name: _usage(counts, size) for name, counts in codes.items()},
        },
    }


def _ranks(size: int) -> list[int]:
    return sorted(
        {rank for power in range(6) for rank in (10**power, 2 * 10**power, 5 * 10**power) if rank < size} | {size}
    )


def _split(data: bytes) -> list[np.ndarray[Any, Any]]:
    ids = np.frombuffer(data, "<u2")
    starts = np.flatnonzero(ids == 0).tolist()
    return [ids[a:b] for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)]


def _ids(runs: Sequence[Any], vocabulary: int) -> dict[str, Any]:
    counts: Counter[int] = Counter()
    for run in runs:
        counts.update(run.tolist())
    total, unknown = counts.total(), counts[3]
    share = _share(unknown, total)
    return {"count": total, "vocabulary": vocabulary, "used": len(counts), "unknown": unknown, "unknown_share": share}


def _usage(counts: Counter[int], size: int) -> dict[str, Any]:
    total, dead = counts.total(), size - len(counts)
    entropy = -sum(c / total * math.log(c / total) for c in counts.values())
    facts = {"count": total, "used": len(counts), "dead": dead, "dead_share": _share(dead, size)}
    return facts | {"perplexity": round(math.exp(entropy), 2)}


def _fertility(corpus: Corpus) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for receipt in corpus._receipts("tables", "tokenize-text"):
        for name, value in receipt["counts"].items():
            if name.startswith("language|"):
                _, what, language, figure = name.split("|")
                cell = found.setdefault(what, {}).setdefault(language, {})
                cell[figure] = cell.get(figure, 0) + value
    for cell in (cell for cells in found.values() for cell in cells.values()):
        cell["ids_per_word"] = round(cell["ids"] / max(1, cell["words"]), 4)
        cell["unknown_share"] = round(cell["unknown"] / max(1, cell["ids"]), 4)
        cell["bytes_per_id"] = round(cell["bytes"] / max(1, cell["ids"]), 4)
    return found


def _fetch(corpus: Corpus) -> dict[str, Any]:
    rows = [row for row in corpus.landing.values() if row["url"] is not None]
    good = [row for row in rows if row["status"] == "ok"]

    def answered(name: Any) -> dict[str, Any]:
        asked, ok = Counter(map(name, rows)), Counter(map(name, good))
        return {key: {"asked": k, "ok": ok[key], "share": _share(ok[key], k)} for key, k in asked.items()}

    def year(row: Row) -> str:
        parts = [
            part for part in re.split(r"[/-]", urlsplit(row["url"]).path) if re.fullmatch(r"(19[89]|20[0-4])\d", part)
        ]
        return parts[0] if parts else "no year"

    return {
        "urls": len(rows),
        "ok": len(good),
        "ok_share": _share(len(good), len(rows)),
        "status": dict(Counter(row["status"] for row in rows)),
        "hosts": len({urlsplit(row["url"]).hostname for row in rows}),
        "host": answered(lambda row: urlsplit(row["url"]).hostname),
        "year": answered(year),
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


class Values(list[int]):
    """What bins have to count."""


def _spread(values: Iterable[int]) -> dict[str, Any]:
    """Count and quantiles, each the smallest value that the share of values does not exceed, and what bins hold."""
    ordered = Values(sorted(values))
    percents = {"min": 0, "p05": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95, "max": 100}
    if not ordered:
        return {"bins": ordered}
    places = {name: max(0, math.ceil(len(ordered) * percent / 100 - 1e-9) - 1) for name, percent in percents.items()}
    return {"count": len(ordered), **{name: ordered[place] for name, place in places.items()}, "bins": ordered}


def _words(text: str) -> list[str]:
    """Runs of letters, marks, numbers and underscores."""
    runs = groupby(text, lambda c: c == "_" or unicodedata.category(c)[:1] in ("L", "M", "N"))
    return ["".join(run) for inside, run in runs if inside]


NO_FIGURES = {
    *(f".{name}" for name in ("audit", "contact_sheet", "findings", "plan", "rebuild")),
    *(f".identity.{name}" for name in ("digest", "data_digest", "decisions_digest", "format_version", "tokenizers")),
    *(".privacy.not_checked", ".contamination.unchecked", ".fetch.sources", ".fetch.missing"),
}
"""What is not recomputed: digests and names that other checks hold, choices of examples, sentences; `plan`, which is
arithmetic over the rest, has a test of its own."""
CHOSEN = "examples"


def differences(slow: Any, fast: Any, path: str = "") -> list[str]:
    """Figures of either side that the other has not, or has otherwise, but for `NO_FIGURES` and examples."""
    if isinstance(slow, Mapping):
        if not isinstance(fast, Mapping):
            return [f"{path}: {fast!r} is no object"]
        surplus = [key for key in fast if key not in slow and key != CHOSEN and f"{path}.{key}" not in NO_FIGURES]
        found = [f"{path}.{key}: not recomputed" for key in surplus]
        for key, value in slow.items():
            found += differences(value, fast[key], f"{path}.{key}") if key in fast else [f"{path}.{key}: missing"]
        return found
    if isinstance(slow, Values):
        wrong = [b for b in fast if b["count"] != sum(b["from"] <= value <= b["to"] for value in slow)]
        whole = sum(b["count"] for b in fast) == len(slow)
        return [] if whole and not wrong else [f"{path}: {wrong or 'not every value is in a bin'}"]
    if isinstance(slow, float):
        return [] if isinstance(fast, (int, float)) and abs(slow - fast) <= 1e-9 else [f"{path}: {slow} but {fast}"]
    return [] if slow == fast else [f"{path}: {slow!r} but {fast!r}"]


if __name__ == "__main__":
    path = Path(sys.argv[1])
    told = differences(audit(path), json.loads((path.parent / "audit.json").read_bytes()))
    sys.stdout.write("\n".join(told) + "\n" if told else "every figure is equal\n")
    sys.exit(bool(told))
