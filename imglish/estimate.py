"""What a build takes: units, bytes, requests and worker seconds of every stage, from amounts and rates.

    rates = DEFAULTS | measure(receipts, "receipts")
    for stage in estimate(recipe, amounts, rates): stage.name, stage.units, stage.kept, stage.seconds

A *rate* is seconds of one worker, bytes, or a share, per something that a stage handles. It comes from the receipts of
what was done, else from a small build of a sample (`imglish.sample`), else it is a default that names its origin.
Stages that read no payload are told by defaults or many receipts: in a sample their fixed costs would hide the rest.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import pyarrow as pa

from imglish.estimate_match import match_stages
from imglish.ingest.decide import BUCKET_ROWS, PIECE_ROWS
from imglish.ingest.match.fingerprints import FINGERPRINTS, wanted
from imglish.ingest.measures.registry import kinds_of, needed_names
from imglish.ingest.tally import verdicts
from imglish.recipe import CodebookConfig, Recipe, VqkdConfig
from imglish.records import ANNOTATIONS, DECISIONS, DOCUMENTS, EVIDENCE, IMAGES, LANDING, MEMBERS, Kind
from imglish.shards.metadata import METADATA
from imglish.stages import Receipt
from imglish.storage import write_parquet

MANY_ROWS = 100_000
"""Rows from which receipts of stages without payloads say how fast these are."""
_UNIT_ROWS = 16_000_000  # of pack-units
_PAIR_MEMBERS, _IMAGE_MEMBERS = 5, 3
_TAR_MEMBER = 512 + 256  # header, and half a block of padding


class Rate(NamedTuple):
    """A number and where it comes from: "receipts", "sample" or "default"."""

    value: float
    origin: str


Rates = Mapping[str, Rate]


@dataclass(frozen=True)
class Amount:
    """What a source holds; `bytes` are those of its payloads, of URLs those that answer.

    `origin` is "landed", "sample", "declared", "assumed" (bytes from the number of rows) or "unknown" (nothing).
    """

    name: str
    kind: Kind
    fetched: bool
    units: int
    rows: int
    bytes: int
    origin: str


@dataclass(frozen=True)
class Stage:
    """One stage of a whole build. `kept` are bytes of its outputs, `scratch` what lies there only while it runs."""

    name: str
    units: int
    seconds: float
    """Of one worker."""
    kept: int = 0
    scratch: int = 0
    requests: int = 0
    """To other people's servers."""
    bytes_in: int = 0
    """From them."""
    single: bool = False
    """Whether one worker does all of it."""
    origin: str = "default"
    """Of its seconds."""


_DEFAULTS = {
    # Seconds of one worker: figures of a development machine's Xeon core, rounded to the cautious side (those of
    # benchmarks/results are up to twice as fast), until receipts or a sample say better; nothing else rests on them.
    "land s/byte": 1e-8,
    "land s/url": 0.02,
    "annotate s/image": 0.006,
    "annotate s/byte": 6e-8,
    "measure s/text": 1.3e-7,  # a byte
    "measure s/pii": 9e-8,  # a byte
    "measure s/picture": 0.01,
    "measure s/nsfw": 0.03,
    "measure s/alignment": 0.12,
    "measure s/quality": 2e-7,  # a byte
    "measure s/bad_words": 6e-8,  # a byte
    "measure s/concepts": 1e-5,  # a pair
    "measure s/caption": 2e-5,  # a pair
    "measure s/own": 1e-4,  # an occurrence
    "resolve s/row": 1.5e-5,
    "decide s/row": 1.5e-5,
    "tally s/row": 1e-5,
    "select s/row": 1e-5,
    "fit-text s/byte": 1.2e-6,
    "fit-visual s/image": 0.05,
    "tokenize-text s/byte": 1e-7,
    "tokenize-visual s/image": 0.012,
    "tokenize-visual s/view": 0.0015,
    "vqkd s/view": 0.3,
    "vqkd bf16 s/view": 0.1,  # on a core with AMX; without it 0.5
    "pack-rows s/row": 1.2e-5,
    "pack-units s/row": 2e-6,
    "pack s/image": 0.014,
    "pack s/byte": 5e-8,
    # Shares. The web: an assumption, old lists lose many of their links. Pictures of their own: 15 M of 21 M pairs and
    # 13 M of 14 M images, the scale that the design has in mind.
    "answering/url": 0.73,
    "requests/url": 1.1,
    "kept/pair": 0.9,
    "kept/image": 0.9,
    "kept/text": 0.9,
    "pictures/pair": 0.72,
    "pictures/image": 0.93,
    # Bytes. Payloads are assumed where nothing is declared; the others as benchmarks/scale*.py have them.
    "payload B/image": 110_000,
    "payload B/text": 4_000,
    "landing B/byte, pair": 1.0,
    "landing B/byte, image": 1.0,
    "landing B/byte, text": 0.4,
    "annotate B/row": 150,
    "measure B/text": 840,
    "resolve B/row": 25,
    "decide B/row": 50,
    "members B/row": 150,
    "ids B/byte": 0.5,
    "pack-rows B/row": 22,
    "shuffled B/row": 160,
    "stored B/image": 20_000,
    "metadata B/row": 60,
}
DEFAULTS: Rates = {name: Rate(value, "default") for name, value in _DEFAULTS.items()}

_KINDS: tuple[Kind, ...] = ("pair", "image", "text")


def estimate(recipe: Recipe, amounts: Sequence[Amount], rates: Rates) -> list[Stage]:
    """Every stage of the build of these amounts, in order."""
    return _Estimate(recipe, amounts, rates).stages()


class _Visual(NamedTuple):
    """What an estimate asks of a visual tokenizer: sizes, images and iterations of a build's fit, name of its rate."""

    size: int
    patch: int
    codes: int
    fit_images: int
    iterations: int
    rate: str


def _visual(recipe: Recipe) -> _Visual:
    """A plug-in, of which nothing is known here, counts as the published VQ-KD tokenizer; neither is fitted by a
    build."""
    config = recipe.tokenize.visual
    if isinstance(config, CodebookConfig):
        rate = "tokenize-visual s/view"
        return _Visual(config.size, config.patch, config.codes, config.sample_images, config.iterations, rate)
    given = config if isinstance(config, VqkdConfig) else VqkdConfig(type="vqkd")
    train = given.train
    rate = "vqkd s/view" if given.precision == "fp32" else "vqkd bf16 s/view"
    return _Visual(given.size, train.patch, train.codes, 0, 0, rate)


class _Estimate:
    """Amounts summed up by what the stages handle."""

    def __init__(self, recipe: Recipe, amounts: Sequence[Amount], rates: Rates) -> None:
        self.recipe, self.amounts, self._rates = recipe, amounts, rates
        self.units = sum(amount.units for amount in amounts)
        self.rows = sum(amount.rows for amount in amounts)
        self.urls = sum(amount.rows for amount in amounts if amount.fetched)
        self.usable = {kind: sum(self._usable(one) for one in amounts if one.kind == kind) for kind in _KINDS}
        self.bytes = {kind: sum(one.bytes for one in amounts if one.kind == kind) for kind in _KINDS}
        kept = {kind: self.usable[kind] * self._rate(f"kept/{kind}") for kind in _KINDS}
        self.members = sum(kept.values())
        self.pairs, self.singles = (kept[kind] * self._rate(f"pictures/{kind}") for kind in _KINDS[:2])
        self.images = self.pairs + self.singles
        self.documents = kept["text"]
        self.text = self.bytes["text"] * self._rate("kept/text") + 50 * kept["pair"]  # captions of 50 bytes

    def _usable(self, amount: Amount) -> float:
        return amount.rows * (self._rate("answering/url") if amount.fetched else 1.0)

    def _rate(self, name: str) -> float:
        return self._rates[name].value

    def _origin(self, *names: str) -> str:
        found = dict.fromkeys(self._rates[name].origin for name in names)
        return "+".join(found)

    def stages(self) -> list[Stage]:
        visual = _visual(self.recipe)
        rows, units, rate = self.rows, self.units, self._rate
        fitted_bytes = min(self.recipe.tokenize.text.sample_bytes, self.text)
        fitted_images = min(visual.fit_images, self.images) * visual.iterations / 20
        rowwise = self.members + self.images + self.documents
        shards = self.recipe.pack.train_shards + self.recipe.pack.validation_shards
        return [
            self._land(),
            Stage(
                "annotate",
                units,
                (self.usable["pair"] + self.usable["image"]) * rate("annotate s/image")
                + self.bytes["text"] * rate("annotate s/byte"),
                _bytes(rows * rate("annotate B/row") + units * sum(map(_footer, self._annotated()))),
                origin=self._origin("annotate s/image", "annotate s/byte"),
            ),
            *self._measures(),
            *self._matches(),
            self._grouped("resolve", -(-rows // BUCKET_ROWS), 0),
            self._grouped("decide", -(-rows // PIECE_ROWS), units * _footer(DECISIONS) + _footer(EVIDENCE)),
            Stage("tally", units, rows * rate("tally s/row"), origin=self._origin("tally s/row")),
            Stage("select", units, rows * rate("select s/row"), origin=self._origin("select s/row")),
            Stage(
                "fit-text",
                1,
                fitted_bytes * rate("fit-text s/byte"),
                _bytes(min(self.recipe.tokenize.text.vocabulary, fitted_bytes) * 22),
                single=True,
                origin=self._origin("fit-text s/byte"),
            ),
            Stage(
                "fit-visual",
                1,
                fitted_images * rate("fit-visual s/image"),
                visual.codes * 32 + 500,
                single=True,
                origin=self._origin("fit-visual s/image"),
            ),
            Stage(
                "tokenize-text",
                units,
                self.text * rate("tokenize-text s/byte"),
                _bytes(
                    self.members * rate("members B/row")
                    + self.text * rate("ids B/byte")
                    + units * (_footer(MEMBERS) + _footer(DOCUMENTS))
                ),
                origin=self._origin("tokenize-text s/byte"),
            ),
            Stage(
                "tokenize-visual",
                units,
                self.images * (rate("tokenize-visual s/image") + self._views() * rate(visual.rate)),
                _bytes(self.images * self._row_of_images() + units * _footer(IMAGES)),
                origin=self._origin("tokenize-visual s/image", visual.rate),
            ),
            Stage(
                "pack-rows",
                units,
                rowwise * rate("pack-rows s/row"),
                _bytes(rowwise * rate("pack-rows B/row") + units * 900),
                origin=self._origin("pack-rows s/row"),
            ),
            Stage(
                "pack-units",
                max(1, -(-round(rowwise) // _UNIT_ROWS)),
                rowwise * rate("pack-units s/row"),
                1_000 + shards * 80,
                origin=self._origin("pack-units s/row"),
            ),
            Stage(
                "pack",
                shards,
                self.images * rate("pack s/image") + self.text * rate("pack s/byte"),
                self.shard_bytes(self._views()),
                self.shard_bytes(self._views()) // self.recipe.pack.rounds,
                origin=self._origin("pack s/image"),
            ),
        ]

    def _row_of_images(self) -> float:
        """Bytes that an image takes in the table of codes; ids and digests do not shrink."""
        measured = self._rates.get("images B/image")
        return measured.value if measured is not None else 100 + self.view_bytes()

    def _landed_size(self, kind: Kind) -> float:
        """Bytes of landing for a byte of payload; texts that are not compressed keep their size."""
        plain = kind == "text" and self.recipe.run.landing == "none"
        return 1.0 if plain else self._rate(f"landing B/byte, {kind}")

    def _annotated(self) -> list[pa.Schema]:
        """What annotate writes of a landing file."""
        return [ANNOTATIONS, *([FINGERPRINTS] if wanted(self.recipe.match) else [])]

    def _land(self) -> Stage:
        local = sum(one.bytes for one in self.amounts if not one.fetched)
        fetched = sum(one.bytes for one in self.amounts if one.fetched)
        kept = sum(self.bytes[kind] * self._landed_size(kind) for kind in _KINDS)
        return Stage(
            "land",
            self.units,
            local * self._rate("land s/byte") + self.urls * self._rate("land s/url"),
            _bytes(kept + self.units * _footer(LANDING)),
            requests=round(self.urls * self._rate("requests/url")),
            bytes_in=fetched,
            origin=self._origin(*(["land s/byte"] if local else []), *(["land s/url"] if self.urls else [])),
        )

    def _measures(self) -> list[Stage]:
        """What the recipe's rules need beyond annotate, as one stage."""
        names = needed_names(self.recipe)
        pictures = self.usable["pair"] + self.usable["image"]
        handled = dict.fromkeys(("picture", "nsfw"), pictures)
        handled |= dict.fromkeys(("text", "pii", "quality", "bad_words"), self.bytes["text"])
        handled |= dict.fromkeys(("alignment", "concepts", "caption"), self.usable["pair"])
        seconds = sum(amount * self._rate(f"measure s/{name}") for name, amount in handled.items() if name in names)
        own = [kind for name in names if name not in handled for kind in kinds_of(name, self.recipe)]
        seconds += sum(own.count(kind) * amount for kind, amount in self.usable.items()) * self._rate("measure s/own")
        kept = sum(self.usable["text"] * self._rate("measure B/text") for name in names if name == "text")
        files = sum(
            amount.units for name in names for amount in self.amounts if amount.kind in kinds_of(name, self.recipe)
        )
        return [Stage("measure", files, seconds, _bytes(kept + 2_000 * files), origin="default")] if names else []

    def _matches(self) -> list[Stage]:
        pictures = self.usable["pair"] + self.usable["image"]
        found = match_stages(self.recipe.match, self.rows, self.units, pictures, self.bytes["text"])
        return [Stage(one.name, one.units, one.seconds, one.kept, one.scratch, single=one.single) for one in found]

    def _grouped(self, name: str, units: int, more: int) -> Stage:
        seconds = self.rows * self._rate(f"{name} s/row")
        kept = _bytes(self.rows * self._rate(f"{name} B/row") + more)
        scratch = _bytes(self.rows * self._rate("shuffled B/row"))
        return Stage(name, max(1, units), seconds, kept, scratch, origin=self._origin(f"{name} s/row"))

    def _views(self) -> int:
        return self.recipe.tokenize.views.count

    def view_bytes(self) -> int:
        """Codes and boxes of the views of one image."""
        visual = _visual(self.recipe)
        return self._views() * (2 * (visual.size // visual.patch) ** 2 + 10)

    def shard_bytes(self, views: int) -> int:
        """Bytes of all shards and their metadata with so many views."""
        one = self.view_bytes() // self._views()
        pair = _PAIR_MEMBERS * _TAR_MEMBER + 150
        image = _IMAGE_MEMBERS * _TAR_MEMBER
        stored = self.images * (self._rate("stored B/image") + views * one + 130)
        shards = self.recipe.pack.train_shards + self.recipe.pack.validation_shards
        text = self.text * self._rate("ids B/byte") * 1.02
        metadata = self.members * self._rate("metadata B/row") + shards * (_footer(METADATA) + 10_240)
        return _bytes(stored + self.pairs * pair + self.singles * image + text + metadata)


def disk_by_views(recipe: Recipe, amounts: Sequence[Amount], rates: Rates, views: Sequence[int]) -> dict[int, int]:
    """Bytes of shards and metadata for other numbers of views."""
    found = _Estimate(recipe, amounts, rates)
    return {count: found.shard_bytes(count) for count in views}


class Landed(NamedTuple):
    """Receipts of the landing units of one source."""

    kind: Kind
    fetched: bool
    receipts: Sequence[Receipt]


def measure(
    recipe: Recipe,
    landed: Sequence[Landed],
    receipts: Mapping[str, Sequence[Receipt]],
    origin: str,
    seconds: Mapping[str, float] | None = None,
) -> dict[str, Rate]:
    """The rates that receipts by stage tell; `seconds` are those of stages of which one worker did all."""
    found = {**_of_landing(landed), **_of_payloads(receipts), **_of_rows(receipts), **_of_verdicts(receipts)}
    found[_visual(recipe).rate] = found.pop("view")
    found |= _of_shards(recipe, receipts, (seconds or {}).get("pack", 0.0))
    return {name: Rate(total / per, origin) for name, (total, per) in found.items() if per > 0 and total >= 0}


Quotients = dict[str, tuple[float, float]]


def _of_landing(landed: Sequence[Landed]) -> Quotients:
    found: Quotients = {}
    for kind in _KINDS:
        mine = [receipt for one in landed if one.kind == kind for receipt in one.receipts]
        found[f"landing B/byte, {kind}"] = (_output_bytes(mine, LANDING), _count(mine, "bytes"))
    local = [receipt for one in landed if not one.fetched for receipt in one.receipts]
    web = [receipt for one in landed if one.fetched for receipt in one.receipts]
    urls = _count(web, "occurrences")
    found |= {"land s/byte": (_seconds(local), _count(local, "bytes")), "land s/url": (_seconds(web), urls)}
    return found | {"answering/url": (_count(web, "status/ok"), urls)}


def _of_payloads(receipts: Mapping[str, Sequence[Receipt]]) -> Quotients:
    """Stages that read payloads, by the files that hold only pictures or only texts."""
    annotated = receipts.get("annotate", ())
    pictured = [receipt for receipt in annotated if receipt.counts.get("images")]
    written = [receipt for receipt in annotated if receipt.counts.get("text_bytes")]
    texts, pictures = receipts.get("tokenize-text", ()), receipts.get("tokenize-visual", ())
    members = [_only(receipt, "members") for receipt in texts]
    documents = [_only(receipt, "documents") for receipt in texts]
    characters = _count(texts, "document_characters")
    texts = [receipt for receipt in texts if not receipt.counts.get("documents_reused")]
    encoded = [one for one in pictures if one.counts.get("images") and not one.counts.get("images_reused")]
    return {
        "annotate s/image": (_seconds(pictured), _count(pictured, "images")),
        "annotate s/byte": (_seconds(written), _count(written, "text_bytes")),
        "annotate B/row": (
            sum(_output_bytes([_only(one, name) for one in annotated], schema) for name, schema in _ANNOTATED.items()),
            _output_rows([_only(one, "rows") for one in annotated]),
        ),
        "tokenize-text s/byte": (_seconds(texts), characters + _count(texts, "caption_characters")),
        "members B/row": (_output_bytes(members, MEMBERS), _output_rows(members)),
        "ids B/byte": (_output_bytes(documents, DOCUMENTS), characters),
        "images B/image": (_output_bytes(encoded, IMAGES), _count(encoded, "images")),
        "tokenize-visual s/image": (0.0, _count(encoded, "images")),
        "view": (_seconds(encoded), _count(encoded, "views")),
        "fit-text s/byte": (_seconds(receipts.get("fit-text", ())), _count(receipts.get("fit-text", ()), "bytes")),
    }


def _of_rows(receipts: Mapping[str, Sequence[Receipt]]) -> Quotients:
    """Stages that read no payload."""
    found: Quotients = {}
    rows = _output_rows([_only(one, "rows") for one in receipts.get("annotate", ())])
    if rows >= MANY_ROWS:
        found |= {f"{name} s/row": (_seconds(receipts.get(name, ())), rows) for name in ("tally", "select")}
        packed = receipts.get("pack-rows", ())
        found |= {"pack-rows s/row": (_seconds(packed), _count(packed, "rows"))}
    decisions = [_only(receipt, "0") for receipt in receipts.get("decide", ())]
    found["decide B/row"] = (_output_bytes(decisions, DECISIONS), _output_rows(decisions))
    return {name: quotient for name, quotient in found.items() if quotient[0] > 0}


def _of_verdicts(receipts: Mapping[str, Sequence[Receipt]]) -> Quotients:
    counts: dict[tuple[str, str, str], int] = {}
    for receipt in receipts.get("tally", ()):
        for one in verdicts(receipt.counts):
            key = (one.kind, one.verdict, one.rule if one.verdict == "drop" else "")
            counts[key] = counts.get(key, 0) + one.count
    found: Quotients = {}
    for kind in _KINDS:
        used = counts.get((kind, "keep", ""), 0) + counts.get((kind, "merge", ""), 0)
        dropped = sum(n for (k, verdict, rule), n in counts.items() if (k, verdict) == (kind, "drop") and rule != _LOST)
        found[f"kept/{kind}"] = (used, used + dropped)
        found[f"pictures/{kind}"] = (counts.get((kind, "keep", ""), 0), used)
    return found


def _of_shards(recipe: Recipe, receipts: Mapping[str, Sequence[Receipt]], seconds: float) -> Quotients:
    """The stored picture, from the sections of shards; how fast, from a pack that one worker did alone."""
    packed = receipts.get("pack", ())
    pairs, singles = _count(packed, "pair"), _count(packed, "image")
    view_bytes = _Estimate(recipe, [], DEFAULTS).view_bytes()
    size = sum(receipt.notes["sections"][kind]["bytes"] for receipt in packed for kind in ("pair", "image"))
    size -= pairs * (_PAIR_MEMBERS * _TAR_MEMBER + 150) + singles * _IMAGE_MEMBERS * _TAR_MEMBER
    images = pairs + singles
    found: Quotients = {"stored B/image": (size - images * view_bytes, images)}
    return found | ({"pack s/image": (seconds, images)} if seconds else {})


_LOST = "payload@1"
_ANNOTATED = {"rows": ANNOTATIONS, "fingerprints": FINGERPRINTS}
"""What annotate writes of a landing file."""


def _seconds(receipts: Sequence[Receipt]) -> float:
    return sum(float(receipt.run["seconds"]) for receipt in receipts)


def _count(receipts: Sequence[Receipt], name: str) -> int:
    return sum(receipt.counts.get(name, 0) for receipt in receipts)


def _output_rows(receipts: Sequence[Receipt]) -> int:
    return sum(output.rows for receipt in receipts for output in receipt.outputs.values())


def _output_bytes(receipts: Sequence[Receipt], schema: pa.Schema) -> int:
    """Bytes of tables without what every file has."""
    sizes = [output.bytes for receipt in receipts for output in receipt.outputs.values()]
    return max(0, sum(sizes) - len(sizes) * _footer(schema))


def _only(receipt: Receipt, beginning: str) -> Receipt:
    """The receipt with those outputs whose last name begins so."""
    outputs = {n: o for n, o in receipt.outputs.items() if n.rpartition("/")[2].startswith(beginning)}
    return Receipt(receipt.unit, receipt.stage, outputs, receipt.counts, receipt.notes, receipt.run)


@cache
def _footer(schema: pa.Schema) -> int:
    """Bytes of a Parquet file of one row of nulls: what a file costs beyond its rows."""
    file = io.BytesIO()
    write_parquet(pa.table([pa.nulls(1, field.type) for field in schema], names=schema.names), file)
    return len(file.getvalue())


def _bytes(count: float) -> int:
    return round(count)
