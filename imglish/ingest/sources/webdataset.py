"""`webdataset` and `img2dataset`: tars whose neighbouring members with one key are one sample.

    00000.tar                                           [[source]]
      000000012.jpg  000000012.txt  000000012.json      format = "img2dataset"         # the same, in tar or Parquet
                                                        kind = "pair"
    photos-{0000..0099}.tar
      park/dog.7.png  park/dog.7.caption.txt            format = "webdataset"
                                                        options = { captions = ["caption.txt", "json:title"] }

A key is the path up to the first dot of the file's name, an extension what follows (webdataset's rule). `captions` are
extensions whose lines are captions, or `ext:field` of a JSON member; `meta` is the JSON member that holds `url` and
`licence`. A row is named by its image member, `00000.tar#000000012.jpg`. Samples stream by: a tar needs the memory of
one sample; a large local one is cut between samples. Beside its tars img2dataset writes a Parquet table of all URLs;
those that it says have failed are rows with its reason. Its Parquet output is the format `parquet` with its preset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from pydantic import Field

from imglish.errors import SourceError
from imglish.ingest.sources.archives import CAPTION_BYTES, with_json_captions
from imglish.ingest.sources.base import Part, Row
from imglish.ingest.sources.files import (
    IMAGE_SUFFIXES,
    File,
    caption_lines,
    find_files,
    not_utf8,
    open_file,
    printable,
    read_options,
)
from imglish.ingest.sources.parquets import ParquetTable
from imglish.ingest.sources.tables import Tables
from imglish.ingest.sources.tabular import parse_json
from imglish.ingest.sources.tars import (
    BROKEN,
    MEMBER_BYTES,
    TAR_SUFFIXES,
    Archive,
    Cut,
    Member,
    is_hidden,
    open_archive,
    read_member,
    tar_cuts,
)
from imglish.recipe import Section, SourceConfig

IMAGES = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
_LOG = ["key", "url", "status", "error_message"]


class WebDatasetOptions(Section):
    """Which extension is what."""

    images: list[str] = Field(default=list(IMAGES))
    """Extensions of the image; the first that a sample has counts."""
    captions: list[str] = Field(default=["txt"], min_length=1)
    """Extensions of captions, one a line, or `ext:field` of a JSON member; for kind pair."""
    text: str = "txt"
    """Extension of the document, for kind text."""
    meta: str | None = None
    """Extension of a JSON member with where the sample came from."""
    url: str = "url"
    """Its field with the URL."""
    licence: str = "license"
    """Its field with the licence."""


class WebDataset:
    """Samples in tars."""

    name = "webdataset"
    version = 1

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        read_options(config, WebDatasetOptions)
        return [part for file in find_files(config, root, TAR_SUFFIXES) for part in _tar_parts(file)]

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        return _tar_rows(config, part, read_options(config, WebDatasetOptions))


class Img2dataset:
    """What img2dataset wrote, as tars or as Parquet."""

    name = "img2dataset"
    version = 1

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        _no_options(config)
        files = find_files(config, root, (".tar", ".parquet"))
        tables = {file.name.removesuffix(".parquet"): file for file in files if file.name.endswith(".parquet")}
        tars = [file for file in files if file.name.endswith(".tar")]
        if not tars:
            return Tables("parquet").parts(_as_parquet(config), root)
        return [part for file in tars for part in _tar_parts(file, tables.get(file.name.removesuffix(".tar")))]

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        if "members" not in part.spec:
            yield from Tables("parquet").rows(_as_parquet(config), part)
            return
        yield from _tar_rows(config, part, WebDatasetOptions(meta="json"))
        if len(part.files) > 1:
            yield from _failures(part.spec["file"], part.files[1])


def _no_options(config: SourceConfig) -> None:
    read_options(config, Section)


def _as_parquet(config: SourceConfig) -> SourceConfig:
    return config.model_copy(update={"options": {"preset": "img2dataset"}})


def _tar_parts(file: File, log: File | None = None) -> list[Part]:
    """The parts of a tar; the last one has the table that img2dataset wrote beside it."""
    cuts = tar_cuts(file, lambda a, b: _key(a)[0] != _key(b)[0])
    parts = []
    for number, cut in enumerate(cuts):
        files = [file, log] if log is not None and number == len(cuts) - 1 else [file]
        name = file.name if cut.start == 0 else f"{file.name}@{cut.start}"
        spec = {"file": file.name, "members": cut.to_json()}
        parts.append(Part(name, [one.url for one in files], [one.fingerprint() for one in files], spec))
    return parts


def _key(name: str) -> tuple[str, str]:
    """(key, extension) of a member."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _tar_rows(config: SourceConfig, part: Part, options: WebDatasetOptions) -> Iterator[Row]:
    name, cut = part.spec["file"], Cut(**part.spec["members"])
    seen = Counter(cut.seen)
    done = 0
    try:
        with ExitStack() as stack:
            opened = open_archive(name, stack.enter_context(open_file(part.files[0])), stack, cut)
            for sample in _samples(name, opened, _wanted(config, options)):
                done += 1
                yield _once(_row(config, name, sample, options), seen)
    except BROKEN as error:
        where = f" behind byte {cut.start}" if cut.start else ""
        said = f"{name}: cannot be read after {done} samples{where}: {printable(str(error))[:200]}"
        yield Row(f"{name}#{f'@{cut.start}' if cut.start else ''}", status="bad_row", detail=said)


def _wanted(config: SourceConfig, options: WebDatasetOptions) -> dict[str, int]:
    """Extensions to read, with the largest size of each."""
    meta = {} if options.meta is None else {options.meta: CAPTION_BYTES}
    if config.kind == "text":
        return meta | {options.text: MEMBER_BYTES}
    captions = {ext.partition(":")[0]: CAPTION_BYTES for ext in options.captions if config.kind == "pair"}
    return meta | captions | dict.fromkeys(options.images, MEMBER_BYTES)


Sample = Mapping[str, Row]
"""The members of one sample by extension, "" for its key; a row is named by its member."""


def _samples(archive: str, opened: Archive, wanted: Mapping[str, int]) -> Iterator[Sample]:
    """Runs of members with one key; of several with one extension the first counts."""
    current: str | None = None
    sample: dict[str, Row] = {}
    error: BaseException | None = None
    members = _until_broken(opened)
    for member in members:
        if isinstance(member, BaseException):
            error = member
            break
        key, extension = _key(member.name)
        if not extension or (member.why_not is None and is_hidden(member.name)):
            continue
        if key != current and sample:
            yield sample
        if key != current:
            current, sample = key, {"": Row(f"{archive}#{key}")}
        if extension in wanted and extension not in sample:
            sample[extension] = read_member(opened, member, Row(f"{archive}#{member.name}"), wanted[extension])
    if sample:
        yield sample
    if error is not None:
        raise error


def _until_broken(opened: Archive) -> Iterator[Member | BaseException]:
    """The members, and what is wrong at the end, so that the sample before it is not lost."""
    try:
        yield from opened.members()
    except BROKEN as error:
        yield error


def _row(config: SourceConfig, archive: str, sample: Sample, options: WebDatasetOptions) -> Row:
    kind = config.kind
    wanted: Sequence[str] = [options.text] if kind == "text" else options.images
    found = next((sample[extension] for extension in wanted if extension in sample), None)
    if found is None:
        said = f"no member of this key ends in {', '.join(wanted)}"
        return replace(sample[""], status="bad_row", detail=said)
    if options.meta is not None and options.meta in sample:
        found = _described(found, sample[options.meta], options)
    return _captioned(found, sample, options.captions) if kind == "pair" and found.status == "ok" else found


def _described(row: Row, meta: Row, options: WebDatasetOptions) -> Row:
    values: Mapping[str, Any] = parse_json(meta.payload or b"{}", 0, meta.row).values or {}
    url, licence = values.get(options.url), values.get(options.licence)
    return replace(
        row,
        url=printable(url) if isinstance(url, str) else None,
        licence=printable(licence) if isinstance(licence, str) and licence else None,
    )


def _captioned(row: Row, sample: Sample, captions: Sequence[str]) -> Row:
    """The row with the captions of all members that have some; the first that cannot be read says why."""
    found: list[Any] = []
    for name in captions:
        extension, _, field = name.partition(":")
        member = sample.get(extension)
        if member is None:
            continue
        if member.payload is None:
            return replace(row, payload=None, status=member.status, detail=member.detail)
        if field:
            read = with_json_captions(row, member, field)
        else:
            lines = caption_lines(member.payload)
            read = not_utf8(row, member.row, member.payload) if lines is None else replace(row, captions=lines)
        if read.status not in ("ok", "no_caption"):
            return replace(read, payload=None)
        found += read.captions or []
    if not found:
        said = f"no caption in a member of this key that ends in {', '.join(captions)}"
        return replace(row, payload=None, status="no_caption", detail=said)
    return replace(row, captions=list(dict.fromkeys(found)) if all(isinstance(one, str) for one in found) else found)


def _once(row: Row, seen: Counter[str]) -> Row:
    """A bad row of its own for a member name that came before."""
    name = row.row.partition("#")[2]
    seen[name] += 1
    if seen[name] == 1:
        return row
    said = f"{name} is in the archive more than once; the first counts"
    return Row(f"{row.row}~{seen[name]}", status="bad_row", detail=said)


def _failures(archive: str, url: str) -> Iterator[Row]:
    """The URLs that img2dataset could not fetch, from the table beside a tar."""
    table = ParquetTable(File(url, f"{archive.removesuffix('.tar')}.parquet", 0, ""))
    try:
        columns = [name for name in _LOG if name in table.columns()]
        cuts = table.cuts() if {"key", "status"} <= set(columns) else []
    except SourceError as error:
        yield Row(f"{archive}#?", status="bad_row", detail=str(error))
        return
    for record in (record for cut in cuts for record in table.read(cut, columns)):
        values = record.values
        if values is None:
            yield Row(f"{archive}#?{record.place}", status=record.status, detail=record.detail)
        elif values["status"] != "success":
            said = printable(f"img2dataset: {values['status']}: {values.get('error_message') or ''}")[:500]
            address = values.get("url")
            address = printable(address) if isinstance(address, str) else None
            yield Row(f"{archive}#?{record.place}", url=address, status="fetch_error", detail=said)
