"""What the pipeline comes to: a build, or deciding alone."""

from __future__ import annotations

from dataclasses import dataclass

from imglish.ingest.alarm import WipedOut
from imglish.ingest.tally import Verdicts
from imglish.ingest.trail import Trail
from imglish.shards.manifest import Manifest


@dataclass
class BuildResult:
    """What a build made: manifest, seconds per stage, bytes landed per source, verdicts, pack's counts, warnings."""

    manifest: Manifest
    path: str
    seconds: dict[str, float]
    landed_bytes: dict[str, int]
    verdicts: list[Verdicts]
    counts: dict[str, int]
    warnings: list[str]


@dataclass
class DecideResult:
    """What deciding alone came to; `alarm` says which rules took most of a source, None when none did."""

    trail: Trail
    path: str
    seconds: dict[str, float]
    landed_bytes: dict[str, int]
    verdicts: list[Verdicts]
    warnings: list[str]
    wiped_out: list[WipedOut]
    alarm: str | None
