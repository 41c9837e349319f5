"""The match stage: fingerprints and landing in, verified edges and leaks out; docs/deduplication.md.

    matched = match(store, engine, recipe, landing, fingerprints, progress, note)
    matched.edges, matched.leaks, matched.captions           # files; leaks lie beside landing

Nothing runs that the recipe does not ask for. What is found is kept under the floors, not the thresholds, of the
recipe, so that decide can move a threshold without coming back here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from imglish.ingest.match.fingerprints import VERSIONS
from imglish.ingest.match.join import Matched
from imglish.ingest.match.leaks import find_leaks
from imglish.ingest.match.propose import VERSION as PROPOSE_VERSION
from imglish.ingest.match.propose import LoadKeys, Propose
from imglish.ingest.match.verify import VERSION, LoadCompared, LoadWanted, Sketch, Verify
from imglish.recipe import Recipe
from imglish.recipe_match import MatchConfig, MatchImageConfig, MatchTextConfig
from imglish.stages import Engine, Progress, Receipt, Unit, run_group, spans_of
from imglish.storage import Output, Store

FOLDER = "tables"
BUCKET_KEYS = 500_000
"""Keys in a bucket of `match-propose`, about 25 MB."""
PIECE_KEYS = 2_000_000
"""Keys loaded at once, about 100 MB."""
PIECE_PAIRS = 500_000
"""Candidates loaded at once, about 100 MB with both of their sides."""
PIECE_SKETCHES = 64 << 20
"""Bytes of files of sketches that are loaded at once."""
BUCKET_PAIRS = 4_000
"""Pairs in a bucket of `match-verify`: 80 MB with documents of 10 KB, of which a sketch is as large."""


def floors(config: MatchConfig) -> tuple[float, float]:
    """Least stored scores of texts and pictures: a threshold below a floor is one."""
    return (
        min(config.text.floor, config.text.threshold or 1.0),
        min(config.image.floor, config.image.threshold or 1.0),
    )


def lowered(config: MatchConfig) -> list[str]:
    """A line for every threshold below its floor, for which candidates are compared anew."""
    parts: dict[str, MatchTextConfig | MatchImageConfig] = {"text": config.text, "image": config.image}
    return [
        f"match.{name}.threshold {part.threshold} is below the stored floor {part.floor}: candidates are matched anew"
        + ("; bands propose few pairs down there (docs/deduplication.md)" if name == "text" else "")
        for name, part in parts.items()
        if part.threshold is not None and part.threshold < part.floor
    ]


def match(
    store: Store,
    engine: Engine,
    recipe: Recipe,
    landing: Sequence[Output],
    prints: Sequence[Output],
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Matched:
    """Everything that the recipe asks to be matched; `prints` lie beside `landing`."""
    leaks = find_leaks(store, engine, recipe, landing, prints, progress, note)
    return replace(match_pairs(store, engine, recipe, landing, prints, progress, note), leaks=tuple(leaks))


def match_pairs(
    store: Store,
    engine: Engine,
    recipe: Recipe,
    landing: Sequence[Output],
    prints: Sequence[Output],
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Matched:
    """Verified edges between all records of a corpus, and repeated captions."""
    config = recipe.match
    if not config.pairs() or not prints:
        return Matched()
    for line in lowered(config):
        note(line)
    proposed = propose_pairs(store, engine, config, prints, progress)
    outputs = proposed.outputs
    exact, captions = ([outputs[key] for key in outputs if key.endswith(name)] for name in ("edges", "captions"))
    verified = _verified(store, engine, recipe, landing, proposed, progress)
    return Matched((*_filled(exact), *_filled(verified)), tuple(_filled(captions)))


def _filled(outputs: Sequence[Output]) -> list[Output]:
    return [output for output in outputs if output.rows]


def propose_pairs(
    store: Store, engine: Engine, config: MatchConfig, prints: Sequence[Output], progress: Progress | None = None
) -> Receipt:
    """The grouping by keys: outputs `<bucket>/candidates`, `/edges` and `/captions`, counts of capped keys."""
    buckets = config.buckets or max(1, -(-sum(output.rows for output in prints) * keys_of(config) // BUCKET_KEYS))
    params: dict[str, Any] = {
        "versions": VERSIONS,
        "exact": config.exact,
        "captions": config.captions,
        "text": [config.text.bands, config.text.rows] if config.text.threshold is not None else None,
        "radius": config.image.radius if config.image.threshold is not None else None,
    }
    unit = Unit("match-propose", PROPOSE_VERSION, params, [output.sha256 for output in prints])
    spans = spans_of([output.rows for output in prints], PIECE_KEYS // keys_of(config))
    pieces = [{"unit": first, "paths": [output.path for output in prints[first:end]]} for first, end in spans]
    load, reduce = LoadKeys(store, config, buckets), Propose(store, config)
    return run_group(store, FOLDER, engine, unit, load, pieces, range(buckets), reduce, progress)


def keys_of(config: MatchConfig) -> int:
    """Keys of a record, about: a document's or a picture's, whichever has more."""
    text = config.text.bands if config.text.threshold is not None else 0
    radius = config.image.radius
    image = (radius + 2) * (radius + 1) // 2 if config.image.threshold is not None else 0
    return max(text, image) + 1


def _verified(
    store: Store,
    engine: Engine,
    recipe: Recipe,
    landing: Sequence[Output],
    proposed: Receipt,
    progress: Progress | None,
) -> list[Output]:
    outputs = [output for key, output in proposed.outputs.items() if _is(key, output, "candidates")]
    if not outputs:
        return []
    candidates = _pieces(outputs, [output.rows for output in outputs], PIECE_PAIRS)
    buckets = max(1, -(-proposed.counts["candidates"] // BUCKET_PAIRS))
    text_floor, image_floor = floors(recipe.match)
    inputs = [proposed.unit, *(output.sha256 for output in landing)]
    sketch_unit = Unit("match-sketch", VERSION, {"versions": VERSIONS, "buckets": buckets}, inputs)
    listing = store.put_table(f"{FOLDER}/match", pa.table({"path": [output.path for output in landing]}))
    sketch = Sketch(store, listing.path, recipe.tokenize.stored.max_pixels)
    wanted = LoadWanted(store, buckets)
    files = range(len(landing))
    sketched = run_group(store, FOLDER, engine, sketch_unit, wanted, candidates, files, sketch, progress)
    verify_unit = Unit("match-verify", VERSION, {"floors": [text_floor, image_floor]}, [sketched.unit])
    sketches = _filled(list(sketched.outputs.values()))
    pieces = [{**piece, "what": "candidates"} for piece in candidates]
    pieces += [
        {**piece, "what": "sketches"}
        for piece in _pieces(sketches, [output.bytes for output in sketches], PIECE_SKETCHES)
    ]
    load, reduce = LoadCompared(store, buckets), Verify(store, text_floor, image_floor)
    verified = run_group(store, FOLDER, engine, verify_unit, load, pieces, range(buckets), reduce, progress)
    return list(verified.outputs.values())


def _pieces(outputs: Sequence[Output], sizes: Sequence[int], most: int) -> list[dict[str, Any]]:
    """Files to load together, of at most so much, as `spans_of` cuts them."""
    return [{"paths": [output.path for output in outputs[first:end]]} for first, end in spans_of(sizes, most)]


def _is(key: str, output: Output, name: str) -> bool:
    return key.endswith(f"/{name}") and output.rows > 0
