"""Croissant 1.1: a corpus described for machines that know nothing of it (https://docs.mlcommons.org/croissant/).

    text = croissant("corpus/manifest.json")            # JSON-LD, to lie beside the manifest as croissant.json

Every shard and metadata table is a FileObject with its SHA-256, every sort of member a FileSet over all shards, and
every kind a RecordSet by the record id in the members' names; `occurrence` says what each sample was made of. Lineage
is PROV-O: the corpus was derived from its sources, each with licence and digest, by a build from a recipe. RAI fields
say how it was collected, what was redacted and what nobody has checked; counts stand in `imglish:statistics`. A corpus
has no date of its own, so it is 1970-01-01 unless one is given, and the same corpus gives the same text.

Ids, codes and views come as raw bytes, in RecordSets of their own (docs/format.md), and a text member as all its
blocks. mlcroissant unpacks whole tars to read one sample, so use it to look, not to train.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from imglish.audit.contamination import match_of
from imglish.audit.tables import Tables
from imglish.records import KINDS, Kind
from imglish.shards.format import FIELDS

Json = dict[str, Any]

CONFORMS = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
DATE = "1970-01-01"
"""Of publication, which mlcroissant asks for, when none is given; as the members' own time in the tars."""
_PLACES: Mapping[Kind, str] = {"pair": "p", "image": "i"}
_FORMATS = {"jpg": "image/jpeg", "txt": "text/plain"}
_RAW = "application/octet-stream"
_COLUMNS = (
    ("table", "sc:Text", "occurrence or histogram."),
    ("kind", "sc:Text", "pair, image or text."),
    ("key", "sc:Text", "Record id of the sample in hex."),
    ("text", "sc:Text", "Captions that came from this occurrence, one a line."),
    ("source", "sc:Text", "Source of the occurrence."),
    ("row", "sc:Text", "Row of the source."),
    ("merged", "sc:Boolean", "Whether another occurrence is the survivor."),
    ("url", "sc:Text", "Where it was fetched from."),
    ("licence", "sc:Text", "Licence as far as stated."),
    ("language", "sc:Text", "Language of the first caption."),
)
_SAID = {
    "jpg": "The stored picture.",
    "txt": "Captions, one a line.",
    "ids": "Text ids, u16 little-endian: each caption from 0 to 2.",
    "codes": "Visual codes, u16 little-endian [views, codes of a view].",
    "views": "Crop boxes, u16 little-endian [views, (x, y, width, height, flip)].",
}


def croissant(manifest_path: str, date: str = DATE, url: str | None = None) -> str:
    """The JSON-LD of a corpus; `url` is where the folder of the manifest is published, `date` when, YYYY-MM-DD.

    ManifestError as `load_manifest`.
    """
    tables = Tables(str(manifest_path))
    manifest = tables.manifest
    licences = sorted({str(source["licence"]) for source in manifest.sources.values() if source.get("licence")})
    tars = [shard.path for shard in manifest.shards]
    document: Json = {
        "@context": _context(),
        "@type": "sc:Dataset",
        "name": manifest.name,
        "description": _description(tables),
        "conformsTo": CONFORMS,
        "version": _version(manifest.version),
        "datePublished": date,
        "license": licences or ["not stated"],
        "citeAs": f"{manifest.name}@{manifest.version}, digest {manifest.digest}",
        "creator": {"@type": "sc:Organization", "name": "not stated"},
        "url": url or f"urn:sha256:{manifest.digest}",
        "imglish:digest": manifest.digest,
        "imglish:dataDigest": manifest.data_digest,
        "imglish:statistics": _statistics(tables),
        **_lineage(tables),
        **_responsible(tables),
        "distribution": [*_objects(tables), *_sets(tars), _tables_set(tables)],
        "recordSet": [*_records("pair"), *_records("image"), _texts(), _occurrences()],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _version(version: str) -> str:
    """Croissant wants MAJOR.MINOR.PATCH."""
    parts = version.split(".")
    return ".".join([*parts, "0", "0"][:3]) if all(part.isdecimal() for part in parts) and len(parts) <= 3 else version


def _description(tables: Tables) -> str:
    counts = tables.manifest.counts
    said = ", ".join(
        f"{split}: " + ", ".join(f"{numbers[kind]:,} {kind}" for kind in KINDS)
        for split, numbers in sorted(counts.items())
    )
    return f"Image-text pairs, images and text for masked data modelling, with visual codes. Index rows: {said}."


def _statistics(tables: Tables) -> Json:
    manifest = tables.manifest
    return {
        "counts": {split: dict(numbers) for split, numbers in sorted(manifest.counts.items())},
        "drops": dict(manifest.drops),
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "textVocabulary": manifest.tokenizers.text.vocabulary,
        "visualCodes": manifest.tokenizers.visual.codes,
    }


def _lineage(tables: Tables) -> Json:
    """PROV-O: what the corpus came from, and by what."""
    manifest = tables.manifest
    sources = [
        {
            "@type": "prov:Entity",
            "@id": f"source/{name}",
            "name": name,
            **({"license": facts["licence"]} if facts.get("licence") else {}),
            **({"imglish:occurrencesDigest": facts["digest"]} if "digest" in facts else {}),
        }
        for name, facts in manifest.sources.items()
    ]
    software = [
        {"@type": "prov:SoftwareAgent", "@id": f"software/{name}", "name": name, "sc:softwareVersion": version}
        for name, version in sorted(manifest.libraries.items())
    ]
    build = {
        "@type": "prov:Activity",
        "@id": "build",
        "name": "imglish build",
        "prov:used": [{"@id": source["@id"]} for source in sources],
        "prov:wasAssociatedWith": software,
        "imglish:recipe": json.dumps(dict(manifest.recipe), sort_keys=True),
        "imglish:decisionsDigest": manifest.decisions.digest,
    }
    parent = [{"@id": f"urn:sha256:{manifest.parent.data_digest}"}] if manifest.parent else []
    return {"prov:wasDerivedFrom": [*sources, *parent], "prov:wasGeneratedBy": build}


def _responsible(tables: Tables) -> Json:
    """Croissant RAI, of what the manifest knows."""
    manifest = tables.manifest
    rules = [str(rule["rule"]) for rule in manifest.decisions.rules]
    redacts = any(rule.startswith("pii@") for rule in rules)
    sets = [str(one["name"]) for one in match_of(manifest).get("evaluation", ())]
    measures = [f"{one['measure']} {one['version']}" for one in manifest.decisions.measures]
    personal = "redacted or dropped by a rule; what no rule recognises is still there" if redacts else "not looked for"
    checked = f"compared with {', '.join(sets)}" if sets else "not compared with any evaluation set"
    return {
        "rai:dataCollection": "Sources: " + "; ".join(_source(name, facts) for name, facts in manifest.sources.items()),
        "rai:dataCollectionType": ["Web Scraping" if _fetched(manifest.sources) else "Secondary Data Analysis"],
        "rai:dataPreprocessingProtocol": [f"rule {rule}" for rule in rules] or ["no rule"],
        "rai:machineAnnotationTools": [f"visual tokenizer {manifest.tokenizers.visual.type}", *measures],
        "rai:dataUseCases": ["Pretraining of image-text models by masked data modelling."],
        "rai:dataLimitations": [f"The corpus was {checked}.", "Captions are as found, not verified."],
        "rai:dataBiases": ["Languages and sources are as unequal as audit.json says."],
        "rai:personalSensitiveInformation": [f"Personal data in text was {personal}."],
        "rai:dataReleaseMaintenancePlan": "Samples are removed on request; the manifest then names its parent.",
    }


def _source(name: str, facts: Mapping[str, Any]) -> str:
    licence = facts.get("licence") or "not stated"
    return f"{name} ({facts.get('kind', 'kind unknown')}, {facts.get('format', 'format unknown')}, licence {licence})"


def _fetched(sources: Mapping[str, Any]) -> bool:
    return any(facts.get("format") == "url-list" for facts in sources.values())


def _objects(tables: Tables) -> list[Json]:
    """Every file with its SHA-256."""
    found = []
    for ordinal, shard in enumerate(tables.manifest.shards):
        for what, file, kind in (("Shard", shard, "application/x-tar"), ("Metadata of shard", shard.metadata, PARQUET)):
            found.append(
                {
                    "@type": "cr:FileObject",
                    "@id": file.path,
                    "name": file.path.rpartition("/")[2],
                    "description": f"{what} {ordinal}, split {shard.split}.",
                    "contentUrl": file.path,
                    "contentSize": f"{file.bytes} B",
                    "encodingFormat": kind,
                    "sha256": file.sha256,
                }
            )
    return found


PARQUET = "application/x-parquet"


def _tables_set(tables: Tables) -> Json:
    """The metadata tables, by their names: files beside them that the manifest does not name are none of it."""
    return {
        "@type": "cr:FileSet",
        "@id": "metadata",
        "name": "metadata",
        "description": "What each sample was made of, and histograms; docs/format.md.",
        "encodingFormat": PARQUET,
        "includes": [shard.metadata.path for shard in tables.manifest.shards],
    }


def _sets(tars: list[str]) -> list[Json]:
    """Members of all shards by kind and field."""
    kinds = [
        (f"{kind}-{field}", f"{place}/*.{field}", field) for kind, place in _PLACES.items() for field in FIELDS[kind]
    ]
    return [
        {
            "@type": "cr:FileSet",
            "@id": name,
            "name": name,
            "description": _SAID[field],
            "containedIn": [{"@id": tar} for tar in tars],
            "encodingFormat": _FORMATS.get(field, _RAW),
            "includes": includes,
        }
        for name, includes, field in [*kinds, ("text-ids", "t*.ids", "ids")]
    ]


def _records(kind: Kind) -> list[Json]:
    """The pictures of a kind by key, then each other field by key: a reader joins them by it.

    mlcroissant reads one set of files for a RecordSet when those lie in several tars, so nothing is joined here.
    """
    return [
        {
            "@type": "cr:RecordSet",
            "@id": name,
            "name": name,
            "description": f"Of samples of kind {kind}, by record id: {_SAID[field]}",
            "key": {"@id": f"{name}/key"},
            "field": [_key(name, f"{kind}-{field}", field), _content(name, field, f"{kind}-{field}")],
        }
        for field in FIELDS[kind]
        for name in [kind if field == "jpg" else f"{kind}_{field}"]
    ]


def _occurrences() -> Json:
    """What each sample was made of, by the same key."""
    rows = [_column(*column) for column in _COLUMNS]
    said = "Occurrences of samples, by the key of the sample, and histograms (rows without a key)."
    return {"@type": "cr:RecordSet", "@id": "occurrence", "name": "occurrence", "description": said, "field": rows}


def _texts() -> Json:
    name = _field("text/member", "sc:Text", "text-ids", {"fileProperty": "filename"})
    name["description"] = "Member of a shard: 256 blocks, fewer in the last."
    blocks = {**_content("text", "ids", "text-ids"), "description": "Text ids, u16 little-endian [blocks, 512]."}
    about = {
        "@type": "cr:RecordSet",
        "@id": "text",
        "name": "text",
        "description": "Blocks of text, a member at a time.",
    }
    return {**about, "field": [name, blocks]}


def _key(record_set: str, files: str, field: str) -> Json:
    """The record id in a member's name."""
    found = _field(f"{record_set}/key", "sc:Text", files, {"fileProperty": "filename"})
    found["source"]["transform"] = {"regex": rf"^([0-9a-f]{{32}})\.{field}$"}
    return {**found, "description": "Record id in hex."}


def _content(record_set: str, field: str, files: str) -> Json:
    data_type = "sc:ImageObject" if field == "jpg" else "sc:Text"
    return {
        **_field(f"{record_set}/{field}", data_type, files, {"fileProperty": "content"}),
        "description": _SAID[field],
    }


def _column(column: str, data_type: str, said: str) -> Json:
    return {**_field(f"occurrence/{column}", data_type, "metadata", {"column": column}), "description": said}


def _field(name: str, data_type: str, files: str, extract: Json) -> Json:
    source = {"fileSet": {"@id": files}, "extract": extract}
    return {"@type": "cr:Field", "@id": name, "name": name, "dataType": data_type, "source": source}


def _context() -> Json:
    """The context of Croissant 1.1, and ours."""
    plain = (
        "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty",
        "fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
        "parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator",
        "source", "subField", "transform",
    )  # fmt: skip
    return {
        "@language": "en",
        "@vocab": "https://schema.org/",
        **{name: f"cr:{name}" for name in plain},
        "conformsTo": "dct:conformsTo",
        "cr": "http://mlcommons.org/croissant/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "dct": "http://purl.org/dc/terms/",
        "description": {"@container": "@language"},
        "examples": {"@id": "cr:examples", "@type": "@json"},
        "name": {"@container": "@language"},
        "sc": "https://schema.org/",
        "prov": "http://www.w3.org/ns/prov#",
        "imglish": "https://imglish.dev/terms/",
        "imglish:statistics": {"@id": "https://imglish.dev/terms/statistics", "@type": "@json"},
    }
