"""Every error that Imglish raises on purpose.

An error says what happened, the offending value and the way out. Commands print the message
without a traceback and exit 1; a usage error exits 2; a preempted run that saved exits 75.

    ImglishError
    ├── RecipeError       a recipe, an override or a command-line value is wrong (exit 2)
    ├── SourceError       a source cannot be listed or opened at all (a bad row is a decision, not an error)
    ├── StorageError      a write could not be committed: disk full, no permission, bad credentials
    ├── EngineError       an engine cannot be started, or no cluster answers at its address
    ├── StageError        a unit of a stage failed; nothing that other units built is lost
    │   └── AlarmError    a rule took most of a source; nothing was tokenized
    ├── LockError         the lock and the fitted models disagree
    ├── ShardError        a shard is damaged: names shard, sample and field
    │   └── SampleError   one sample of it is, and can be excluded
    ├── WorkerError       a worker process of a loader ended by itself
    ├── ManifestError     a manifest is damaged, too new, or disagrees with its shards
    ├── OrderError        a loader was asked for an impossible batch or given another corpus's state
    ├── FetchError        a URL gave no payload (becomes the status of a row of landing)
    ├── ImageError        an image cannot be decoded safely (becomes a decision during a build)
    ├── TokenizerError    a tokenizer file is wrong or does not fit the corpus
    ├── ModelError        a model config or checkpoint does not fit
    └── TrainError        a run cannot start or go on
        └── Preempted     a run was told to stop, and saved (exit 75)
"""

from __future__ import annotations


class ImglishError(Exception):
    """Base of all errors below; `exit_code` is what the command line returns."""

    exit_code = 1


class RecipeError(ImglishError):
    """A recipe, an override or a command-line value is wrong."""

    exit_code = 2


class SourceError(ImglishError):
    """A source cannot be listed or opened at all."""


class StorageError(ImglishError):
    """A write could not be committed."""


class EngineError(ImglishError):
    """An engine cannot be started, or no cluster answers at its address."""


class StageError(ImglishError):
    """A unit of a stage failed."""


class AlarmError(StageError):
    """A rule took most of a source and nobody accepted that; nothing was tokenized."""


class LockError(ImglishError):
    """The lock and the fitted models disagree."""


class ShardError(ImglishError):
    """A shard is damaged."""


class SampleError(ShardError):
    """One sample is damaged; `kind`, `shard` (ordinal) and `row` are what an exclusions file needs."""

    def __init__(self, message: str, kind: str, shard: int, row: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.shard = shard
        self.row = row

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, str, int, int]]:
        return type(self), (str(self), self.kind, self.shard, self.row)


class WorkerError(ImglishError):
    """A worker process of a loader ended by itself."""


class ManifestError(ImglishError):
    """A manifest is damaged, too new, or disagrees with its shards."""


class OrderError(ImglishError):
    """A loader was asked for an impossible batch or given another corpus's state."""


class ImageError(ImglishError):
    """An image cannot be decoded safely; `reason` is a short stable word for decisions and receipts."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class FetchError(ImglishError):
    """A URL gave no payload; `reason` is the row's status in landing (`records.LANDING`)."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[FetchError], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class TokenizerError(ImglishError):
    """A tokenizer file is wrong or does not fit the corpus."""


class ModelError(ImglishError):
    """A model config or checkpoint does not fit."""


class TrainError(ImglishError):
    """A run cannot start or go on."""


class Preempted(TrainError):  # noqa: N818 - a run that was told to stop did not fail
    """A run was told to stop, and saved; the same command goes on."""

    exit_code = 75
