"""Sources: what raw data looks like, one small reader for each layout. `docs/sources.md` lists them.

A reader has a name, a version and two methods. Thirty lines make one, here for files of "question TAB answer":

    # readers/quiz.py; in the recipe: format = "readers/quiz.py:Quiz", kind = "text"
    from collections.abc import Iterator

    from imglish.ingest.sources import Part, Row, SourceConfig, Span, find_files, span_lines, spans


    class Quiz:
        name, version = "quiz", 1

        def parts(self, config: SourceConfig, root: str) -> list[Part]:
            parts = []
            for file in find_files(config, root, (".quiz", ".quiz.gz")):  # local, glob or any fsspec URL
                for span in spans(file):  # 64 MB each; one for a compressed file
                    spec = {"file": file.name, "span": span.to_json()}
                    parts.append(Part(f"{file.name}#{span.start}", [file.url], [file.fingerprint()], spec))
            return parts

        def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
            name, span = part.spec["file"], Span.from_json(part.spec["span"])
            try:
                for offset, line in span_lines(part.files[0], span):
                    row = f"{name}#{offset}"  # unique, and the same however the file is cut
                    question, tab, answer = line.strip().partition(b"\\t")
                    if tab:
                        yield Row(row, payload=question + b"\\n" + answer)
                    elif line.strip():
                        yield Row(row, status="bad_row", detail=f"{row}: no tab")
            except OSError as error:
                yield Row(f"{name}#broken", status="bad_row", detail=f"{name}: {error}")

A row that is wrong says so in `status` (words in `imglish.records`) and `detail`: it becomes a decision. Never raise
for one, never leave one out. A payload behind a URL is a row with `url` and status TO_FETCH. Landing does the rest:
fetches, checks texts and captions, cuts the rows into files of bounded size, goes on after a crash. A package offers a
reader as entry point of the group "imglish.sources"; `format` is then its name.
"""

from __future__ import annotations

from imglish.ingest.sources.base import TO_FETCH, Part, Reader, Row
from imglish.ingest.sources.files import File, find_files, read_options, read_payload
from imglish.ingest.sources.registry import READERS, reader, reader_version
from imglish.ingest.sources.streams import Span, open_stream, span_lines, spans
from imglish.recipe import Section, SourceConfig

__all__ = [
    "READERS",
    "TO_FETCH",
    "File",
    "Part",
    "Reader",
    "Row",
    "Section",
    "SourceConfig",
    "Span",
    "find_files",
    "open_stream",
    "read_options",
    "read_payload",
    "reader",
    "reader_version",
    "span_lines",
    "spans",
]
