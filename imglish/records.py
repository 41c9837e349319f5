"""The words of DESIGN section 3 as tables: what each stage writes and the next one reads.

One row of landing is an *occurrence*, named by (source, row). A *record* is the content that one or more
occurrences share, named by `record_id` (null when there is no payload). Every table below is flat; what is
nested travels as canonical JSON in a binary column (`pack_json`, `unpack_json`).

    landing      one row per occurrence, as received                        ingest.land
    annotations  one row per occurrence, measured                           ingest.annotate
    decisions    one row per occurrence: verdict, rule, split, edits        ingest.decide
    evidence     one row per (occurrence, rule that fired)                  ingest.decide
    members      one row per kept or merged occurrence, captions encoded    tokenize.tasks
    images       one row per kept image record: views and codes             tokenize.tasks
    documents    one row per kept text record: ids                          tokenize.tasks

All are sorted by (record_id, source, row) within a file, nulls last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa

from imglish.digests import canonical_json

Kind = Literal["pair", "image", "text"]
Split = Literal["train", "validation"]
Verdict = Literal["keep", "merge", "drop"]
KINDS: tuple[Kind, ...] = ("pair", "image", "text")
SPLITS: tuple[Split, ...] = ("train", "validation")
ROW_KEYS = ("record_id", "source", "row")

_OCCURRENCE = [
    pa.field("source", pa.string(), nullable=False),
    pa.field("row", pa.string(), nullable=False),
    pa.field("kind", pa.string(), nullable=False),
    pa.field("record_id", pa.binary()),
]

LANDING = pa.schema(
    [
        *_OCCURRENCE,
        pa.field("payload", pa.binary()),  # image bytes or UTF-8 text, as received; null when there is none
        pa.field("captions", pa.binary()),  # JSON list of strings; pairs only
        pa.field("url", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.binary()),
        pa.field("status", pa.string(), nullable=False),  # "ok", or why there is no usable payload
        pa.field("detail", pa.string()),  # for people: the error, final URL, file and offset
        pa.field("attempts", pa.int32()),
        pa.field("receipt", pa.binary()),  # JSON of the last answer, fetched rows only: url, code, sent, headers
    ]
)
"""Status words; payload, record_id, bytes and sha256 are set exactly when it is "ok".

    ok               a payload, not yet judged: a truncated image is ok here and annotate says what it is
    empty            no bytes, or a text of white space only
    not_utf8         a text, or every caption of a pair, does not decode
    no_caption       a pair without a caption that has a character
    bad_row          the row cannot be parsed, lacks a value, or its file breaks off there
    missing_file     a file that the row names is not there or cannot be read
    too_large        longer than the fetch's or the reader's limit
    refused          a URL, address, port or member name that we do not follow
    redirects        more than five redirects, or a loop
    robots_disallowed   robots.txt of the host says no
    robots_unreachable  robots.txt of the host cannot be had: server errors or no answer (RFC 9309: as if it said no)
    opted_out        the answer carries a reservation (X-Robots-Tag, TDM-Reservation)
    http_404         the server's answer, any code
    timeout          no whole answer in time
    unresolved       the host's name has no address
    host_down        not asked: its host failed too often in a row
    postponed        not asked: the unit's time or bytes were used up
    not_image        an answer that is no image format we know
    sha256_mismatch  not the content that the source announced
    fetch_error      any other failure on the way
    skipped          no sample by its nature: a redirect, a page outside the articles
    forgotten        removed by `imglish forget`

`sha256` is null for texts, whose record id is a digest of the same bytes (ADR 11). `receipt` of a fetched row: {"url":
asked last, "code": of its answer or null, "sent": bytes of the body on the wire, "headers": those that decide, see
`ingest.fetch.DECIDING`}.
"""

ANNOTATIONS = pa.schema(
    [
        *_OCCURRENCE,
        pa.field("status", pa.string(), nullable=False),  # landing's, or the decoder's reason
        pa.field("detail", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("url_place", pa.int64()),  # of a fetched row: 31 bits of its host, 32 of its URL (`ingest.hosts`)
        pa.field("width", pa.int32()),  # of the original, pixels
        pa.field("height", pa.int32()),
        pa.field("aspect", pa.float64()),  # long side / short side
        pa.field("format", pa.string()),  # JPEG, PNG, ...
        pa.field("mode", pa.string()),  # RGB, P, CMYK, ...
        pa.field("words", pa.int64()),  # of a text
        pa.field("characters", pa.int64()),
        pa.field("language", pa.string()),  # ISO 639-1 of a text, or of a pair's first caption
        pa.field("language_score", pa.float64()),
        pa.field(
            "captions", pa.binary()
        ),  # JSON, each {"words", "bytes", "characters", "repeats", "language", "score"}
    ]
)

DECISIONS = pa.schema(
    [
        *_OCCURRENCE,
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("rule", pa.string()),  # name@version that decided; null for an unchallenged keep
        pa.field("score", pa.float64()),
        pa.field("threshold", pa.float64()),
        pa.field("detail", pa.string()),
        pa.field("fired", pa.int64(), nullable=False),  # one bit per rule, in the recipe's order
        pa.field("other_source", pa.string()),  # the surviving occurrence, for merge and duplicate drops
        pa.field("other_row", pa.string()),
        pa.field("edits", pa.binary()),  # JSON list of [caption number or -1, start byte, end byte, replacement]
        pa.field("sample_kind", pa.string()),  # kind of the sample it belongs to: kept and merged only
        pa.field("sample_id", pa.binary()),  # record id of that sample: another record's when a near duplicate merges
        pa.field("split", pa.string()),  # null when dropped
        pa.field("priority", pa.int32(), nullable=False),
    ]
)

EVIDENCE = pa.schema(
    [
        *_OCCURRENCE[:2],
        pa.field("rule", pa.string(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("threshold", pa.float64()),
        pa.field("detail", pa.string()),
        pa.field("other_source", pa.string()),
        pa.field("other_row", pa.string()),
    ]
)

MEMBERS = pa.schema(
    [
        *_OCCURRENCE,
        pa.field("split", pa.string(), nullable=False),
        pa.field("merged", pa.bool_(), nullable=False),
        pa.field("priority", pa.int32(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("language", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("captions", pa.binary()),  # JSON list of strings after edits; pairs only
        pa.field("caption_ids", pa.binary()),  # u16 LE, each caption <s> ... </s>, same order
    ]
)
"""`record_id` and `kind` here are those of the sample that the occurrence belongs to: an image merged into a pair is
"pair", and a pair merged into a near duplicate has the id of that one."""

IMAGES = pa.schema(
    [
        pa.field("record_id", pa.binary(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("stored_sha256", pa.binary(), nullable=False),  # of the stored JPEG that the codes were made from
        pa.field("width", pa.int32(), nullable=False),  # of the stored image
        pa.field("height", pa.int32(), nullable=False),
        pa.field("views", pa.binary(), nullable=False),  # K x (x, y, w, h, flip) u16 LE, stored pixels
        pa.field("codes", pa.binary(), nullable=False),  # K x N u16 LE
    ]
)

DOCUMENTS = pa.schema(
    [
        pa.field("record_id", pa.binary(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("ids", pa.binary(), nullable=False),  # u16 LE, <s> ... </s>
        pa.field("unknown", pa.int32(), nullable=False),  # number of <unk>
        pa.field("characters", pa.int64(), nullable=False),
    ]
)


def pack_json(value: Any) -> bytes:
    """A nested value as canonical JSON for a binary column."""
    return canonical_json(value)


def unpack_json(data: bytes | None) -> Any:
    """The value of a binary JSON cell; None stays None."""
    return None if data is None else json.loads(data)


def table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows of dictionaries as a table of `schema`; absent cells are null."""
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.table(columns, schema=schema)
