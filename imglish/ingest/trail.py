"""The trail: one small file that names every table behind one set of decisions.

    path = write_trail(store, Trail(...))               # tables/trails/<decisions' digest>.json
    opened = open_trail("corpus/manifest.json")         # or the trail itself, while there is no manifest yet
    opened.trail.files[3].annotations, opened.manifest

A manifest names its decisions by their logical digest, and so the trail, without containing it: where intermediate
tables lie is no property of a corpus. `imglish why`, `imglish sample-decisions` and the alarm start here, and so need
neither the recipe nor the sources. `imglish gc` keeps what the manifest's trail names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from imglish.digests import canonical_json
from imglish.errors import ManifestError, StorageError
from imglish.shards.manifest import Manifest, parse_manifest
from imglish.shards.ranges import parent
from imglish.storage import Store

FOLDER = "tables/trails"
FORMAT = "imglish-trail"
VERSION = 1


@dataclass(frozen=True)
class TrailFile:
    """The tables about one landing file, by path, row by row the same occurrences but for `evidence`, which holds those
    rows of a span of landing files where a rule fired; `leaks` only when evaluation sets were named."""

    source: str
    kind: str
    rows: int
    landing: str
    annotations: str
    measures: tuple[str, ...]
    decisions: str
    evidence: str
    leaks: str | None = None


@dataclass(frozen=True)
class Trail:
    """Every table behind one set of decisions."""

    name: str
    """name@version of the corpus."""
    decisions: str
    """Logical digest of the decisions, that of the manifest made from them."""
    rules: tuple[Mapping[str, Any], ...]
    """In the order of their bits in `fired`, with thresholds."""
    later_rules: tuple[str, ...]
    """Whose bits follow: those that look beyond one occurrence."""
    files: tuple[TrailFile, ...]
    edges: tuple[str, ...]
    """Files of verified matches (`match.propose.EDGES`)."""
    counts: Mapping[str, int]
    """Occurrences by "source|kind|verdict|rule", as tally has them."""

    def paths(self) -> set[str]:
        """Every file that it names."""
        found = set(self.edges)
        for file in self.files:
            found |= {file.landing, file.annotations, *file.measures, file.decisions, file.evidence}
            found |= set() if file.leaks is None else {file.leaks}
        return found

    def to_json(self) -> bytes:
        return canonical_json({"format": FORMAT, "format_version": VERSION, **asdict(self)})


@dataclass(frozen=True)
class Opened:
    """A trail with the folder that its paths are relative to, and the manifest when it was opened by that."""

    path: str
    store: Store
    trail: Trail
    manifest: Manifest | None


def trail_path(digest: str) -> str:
    """Where the trail of decisions of this digest lies in a build's folder."""
    return f"{FOLDER}/{digest[:32]}.json"


def write_trail(store: Store, trail: Trail) -> str:
    """Write a trail unless the same one is there; its path in the store."""
    path, data = trail_path(trail.decisions), trail.to_json()
    if store.read_many([path]).get(path) != data:
        store.put_as(path, data)
    return path


def read_trail(data: bytes, origin: str) -> Trail:
    """A trail from its bytes; ManifestError when they are none or newer than this release."""
    try:
        values = dict(json.loads(data))
        if values.pop("format") != FORMAT:
            raise ValueError("its 'format' is another one")
        if (version := values.pop("format_version")) > VERSION:
            raise ManifestError(f"{origin}: a trail of version {version}; this release reads {VERSION}, update imglish")
        files = tuple(TrailFile(**{**file, "measures": tuple(file["measures"])}) for file in values.pop("files"))
        values |= {name: tuple(values[name]) for name in ("rules", "later_rules", "edges")}
        return Trail(**values, files=files)
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{origin} is no trail of decisions ({error}); make it again with 'imglish build'"
        ) from None


def open_trail(path: str) -> Opened:
    """The trail of a manifest, or of a trail's own path or URL.

    ManifestError when the file is missing or neither, or when the manifest's trail is gone.
    """
    text = str(path)
    folder, name = parent(text), text.rpartition("/")[2]
    data = Store(folder).read_many([name]).get(name)
    if data is None:
        raise ManifestError(f"no manifest at {text}; make one with 'imglish build'")
    if _is_trail(data):
        return Opened(text, Store(folder.removesuffix(FOLDER) or "."), read_trail(data, text), None)
    manifest = parse_manifest(data, text)
    store = Store(folder)
    if manifest.parts:
        raise ManifestError(
            f"{text} is merged; give the manifest of one of its parts: {', '.join(part_paths(manifest, text))}"
        )
    mine = trail_path(manifest.decisions.digest)
    found = store.read_many([mine]).get(mine)
    if found is None:
        raise ManifestError(
            f"{text}: its tables are not beside it ({mine} is missing); copy tables/ and landing/ of its build there, "
            "or run 'imglish build' once more"
        )
    return Opened(text, store, read_trail(found, store.url(mine)), manifest)


def follow(store: Store, moved: Mapping[str, str]) -> None:
    """Let every trail name landing files by their new paths; before the old ones go, so that none leads nowhere."""
    for path in [path for path in store.files(FOLDER) if path.endswith(".json")]:
        trail = read_trail(store.read(path), store.url(path))
        files = tuple(replace(file, landing=moved.get(file.landing, file.landing)) for file in trail.files)
        write_trail(store, replace(trail, files=files))


def part_paths(manifest: Manifest, path: str) -> Sequence[str]:
    """The manifests of a merged corpus's parts; none of one that was built from a recipe."""
    folder = parent(path)
    return [f"{folder}/{part.path}" for part in manifest.parts]


def load_table(opened: Opened, path: str, columns: list[str] | None = None) -> Any:
    """A table that the trail names; ManifestError when it is gone."""
    try:
        return opened.store.read_table(path, columns)
    except (FileNotFoundError, StorageError):
        raise ManifestError(f"{opened.store.url(path)} is missing; run 'imglish build' once more") from None


def _is_trail(data: bytes) -> bool:
    return f'"format":"{FORMAT}"'.encode() in data
