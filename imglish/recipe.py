"""The recipe: one TOML file that says what a corpus is made of and how a model is trained on it.

    recipe = load_recipe("recipes/demo.toml", ["seed=1", "tokenize.text.vocabulary=8000"])

Every section is a frozen model; unknown keys are refused with a suggestion. A field marked *run* changes
how a build runs (workers, time-outs) and never its bytes; all others are *content* and enter the manifest's
digest. `content_fields(section)` gives those. Sections with a file of their own: `recipe_decide`, `recipe_balance`,
`recipe_match`, `recipe_tokenize`, `recipe_train`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from imglish.errors import RecipeError
from imglish.recipe_balance import BalanceConfig, CapConfig, ConceptsConfig
from imglish.recipe_base import RUN, Section, content_fields, parse_size
from imglish.recipe_decide import DecideConfig
from imglish.recipe_match import MatchConfig
from imglish.recipe_tokenize import (
    CodebookConfig,
    PluginConfig,
    StoredConfig,
    TextTokenizerConfig,
    TokenizeConfig,
    ViewConfig,
    VisualTokenizerConfig,
    VqkdConfig,
    VqkdTrainConfig,
)
from imglish.recipe_train import MaskConfig, ModelConfig, TrainConfig, WeightConfig
from imglish.records import Kind

__all__ = [
    "RUN",
    "BalanceConfig",
    "CapConfig",
    "CodebookConfig",
    "ConceptsConfig",
    "DecideConfig",
    "EngineName",
    "FetchConfig",
    "MaskConfig",
    "MatchConfig",
    "ModelConfig",
    "PackConfig",
    "PluginConfig",
    "Recipe",
    "RunConfig",
    "Section",
    "SourceConfig",
    "StoredConfig",
    "TextTokenizerConfig",
    "TokenizeConfig",
    "TrainConfig",
    "ViewConfig",
    "VisualTokenizerConfig",
    "VqkdConfig",
    "VqkdTrainConfig",
    "WeightConfig",
    "content_fields",
    "load_recipe",
    "make_recipe",
    "parse_size",
]

EngineName = Literal["dask", "spark"]


class SourceConfig(Section):
    """One named input."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    """Short name, unique in the recipe; part of every occurrence's identity."""
    format: str
    """Reader, such as "folder", "url-list", "webdataset", "text" (docs/sources.md), or "readers/mine.py:Mine"."""
    kind: Kind
    """What its rows are: pair, image or text."""
    path: str
    """File, folder or glob, relative to the recipe's `root`."""
    priority: int = 0
    """Among occurrences of one record the lowest priority survives, and its captions come first."""
    licence: str | None = None
    """Licence of the source as a whole, carried to the metadata of every sample."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the reader, checked by it."""
    expected_rows: Annotated[int | None, RUN] = Field(default=None, ge=0)
    """How many rows there are about, for `imglish plan` while the files are not here."""
    expected_bytes: Annotated[int | None, RUN] = Field(default=None, ge=0)
    """How many bytes their payloads have about, of URLs those that still answer; for `imglish plan`."""


class FetchConfig(Section):
    """Downloading of URL lists (img2dataset behind a guarded opener); docs/fetch.md."""

    allow_private: tuple[str, ...] = ()
    """host:port addresses that may be fetched although not public; empty but for tests and the demo."""
    user_agent: str = "imglish/1 (corpus builder)"
    """Sent with every request; its first word names us in robots.txt and X-Robots-Tag. Say how to reach you."""
    max_bytes: int = Field(default=32 << 20, gt=0)
    """A longer body is cut off and recorded as `too_large`."""
    robots: bool = True
    """Whether robots.txt is fetched and obeyed (RFC 9309)."""
    opt_outs: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex", "tdm-reservation")
    """Directives of X-Robots-Tag, and the header TDM-Reservation, by which an answer is not taken (`opted_out`)."""
    timeout: Annotated[float, RUN] = Field(default=10.0, gt=0)
    """Seconds to connect, and between two packets."""
    deadline: Annotated[float, RUN] = Field(default=30.0, gt=0)
    """Seconds of requests for one URL, all attempts together, whatever it sends."""
    retries: Annotated[int, RUN] = Field(default=2, ge=0)
    """Further attempts after a failure that may pass."""
    backoff: Annotated[float, RUN] = Field(default=1.0, ge=0)
    """Seconds before the second attempt; doubled for each further one, times a draw from [0.5, 1.5)."""
    max_wait: Annotated[float, RUN] = Field(default=60.0, ge=0)
    """Longest wait for a further attempt; a host whose Retry-After is longer is left to `imglish retry`."""
    host_connections: Annotated[int, RUN] = Field(default=4, gt=0)
    """Requests at once to one host, in the whole cluster."""
    host_delay: Annotated[float, RUN] = Field(default=0.05, ge=0)
    """Seconds between two requests to one host, in the whole cluster; Crawl-delay of its robots.txt when longer."""
    host_failures: Annotated[int, RUN] = Field(default=10, ge=0)
    """Failures in a row, without any answer, after which a host is `host_down` for the unit; 0 never gives up."""
    threads: Annotated[int, RUN] = Field(default=32, gt=0)
    """Downloads at once in one unit."""
    unit_deadline: Annotated[float, RUN] = Field(default=1800.0, gt=0)
    """Seconds after which a unit starts no further request; what is left is `postponed`."""
    unit_bytes: Annotated[int, RUN] = Field(default=512 << 20, gt=0)
    """Bytes of payload after which a unit starts no further request."""
    unit_rows: int = Field(default=1000, gt=0)
    """URLs in one unit, at most."""


class PackConfig(Section):
    """Shards."""

    train_shards: int = Field(default=8, ge=1)
    """Shards of the train split; `imglish plan` proposes a number."""
    validation_shards: int = Field(default=1, ge=1)
    """Shards of the validation split."""
    layout: Literal["mixed", "by-kind"] = "mixed"
    """One shard holds all kinds, or a single one."""
    max_captions: int = Field(default=64, ge=1)
    """Captions of one pair, the first in the order of DESIGN section 4."""
    max_caption_ids: int = Field(default=64, ge=4)
    """Ids of one caption with `<s>` and `</s>`; longer ones are truncated and counted."""
    repeat: dict[str, Annotated[int, Field(ge=1, le=1000)]] = Field(default_factory=dict)
    """Index rows of a sample by source, kind or language, 1 when absent: `{ albums = 3, "language=is" = 2 }` shows each
    picture of that source three times in an epoch, and each with a caption list that begins in Icelandic twice. Keys
    are a source's name, "kind=pair", "kind=image" or "language=CODE"; of several that fit a sample or one of its
    occurrences the largest counts. Pairs and images only."""
    rounds: Annotated[int, RUN] = Field(default=1, ge=1)
    """Rounds over id ranges; more rounds need less temporary space."""


class RunConfig(Section):
    """How a build runs on this machine; never what it makes."""

    engine: Annotated[EngineName, RUN] = "dask"
    """The engine: "dask", or "spark" (needs Java). Both give the same bytes."""
    workers: Annotated[int | None, RUN] = Field(default=None, ge=1)
    """Worker processes, one per core when None; on a Spark master the most cores. A Dask scheduler has its own."""
    memory: Annotated[str, RUN] = "4GB"
    """Memory of one worker. Dask stops an own worker that takes more; for Spark see docs/clusters.md."""
    mixed_platforms: Annotated[bool, RUN] = False
    """Accept images encoded on machines of different CPU features, whose codes may differ in near-ties."""
    address: Annotated[str | None, RUN] = None
    """Cluster to use instead of this machine: tcp://HOST:8786 of Dask; spark://HOST:7077, yarn or k8s:// of Spark."""
    landing: Annotated[Literal["zstd", "none"], RUN] = "zstd"
    """How the texts of landing are compressed. "none" saves a third of the work by the sum of its parts
    (docs/logbook.md) and takes 2.7 times the disk."""
    scratch: Annotated[str | None, RUN] = None
    """Folder of a local disk for what shuffles spill, emptied at the end; scratch/ in `work`, or a temporary one when
    `work` is elsewhere."""

    @model_validator(mode="after")
    def _sizes(self) -> RunConfig:
        parse_size(self.memory)
        return self


class Recipe(Section):
    """A whole corpus and the run on it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the corpus."""
    version: str = "1"
    """Version of the corpus; the manifest is `name@version`."""
    seed: int = Field(default=0, ge=0)
    """Seed of every draw: split, views, masks, order, initialisation."""
    root: Annotated[str, RUN] = "."
    """Folder that source paths are relative to, itself relative to the recipe file."""
    work: Annotated[str, RUN] = "corpus"
    """Folder of the build: landing, tables, shards, manifest; relative to the recipe file."""
    source: tuple[SourceConfig, ...] = Field(min_length=1)
    """The sources, `[[source]]` in TOML."""
    fetch: FetchConfig = FetchConfig()
    match: MatchConfig = MatchConfig()
    decide: DecideConfig = DecideConfig()
    balance: BalanceConfig = BalanceConfig()
    tokenize: TokenizeConfig = TokenizeConfig()
    pack: PackConfig = PackConfig()
    train: TrainConfig = TrainConfig()
    run: Annotated[RunConfig, RUN] = RunConfig()

    @model_validator(mode="after")
    def _unique_sources(self) -> Recipe:
        names = [source.name for source in self.source]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two sources are called {twice[0]!r}; give each its own name")
        return self

    @model_validator(mode="after")
    def _named_sources(self) -> Recipe:
        kinds = {source.name: source.kind for source in self.source}
        named = [("pack.repeat", name) for name in self.pack.repeat if not _group(name)]
        named += [(f"decide.alarm_accept.{rule}", name) for rule, of in self.decide.alarm_accept.items() for name in of]
        for key, name in named:
            if name not in kinds:
                groups = ("kind=pair", "kind=image") if key == "pack.repeat" else ()
                near = difflib.get_close_matches(name, [*kinds, *groups], n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"the sources are {', '.join(sorted(kinds))}"
                what = "source, kind or language" if groups else "source"
                raise ValueError(f"{key} names {name!r}, which is no {what}; {hint}")
        for name in self.pack.repeat:
            if not _group(name) and kinds[name] == "text":
                raise ValueError(f"pack.repeat names {name!r}, a source of text; only pairs and images are repeated")
        return self


def _group(name: str) -> bool:
    """Whether `pack.repeat` means a kind or a language by this name, and no source."""
    return name in ("kind=pair", "kind=image") or name.startswith("language=")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a TOML recipe and apply `key=value` overrides; `root` and `work` become absolute.

    Raises RecipeError with file, key and a suggestion.
    """
    file = Path(path)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {file}; see recipes/ for examples") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file}: not TOML: {error}") from None
    for override in overrides:
        _override(values, override)
    base = file.resolve().parent
    values["root"] = str(base / values.get("root", "."))
    values["work"] = _absolute(base, values.get("work", "corpus"))
    return make_recipe(values, str(file))


def make_recipe(values: dict[str, Any], origin: str = "recipe") -> Recipe:
    """Validate plain values; RecipeError names the field, the value and the nearest known key."""
    try:
        return Recipe.model_validate(_tuples(values))
    except ValidationError as error:
        found = [item for item in error.errors() if item["loc"] != ("source",) or len(error.errors()) == 1]
        raise RecipeError(f"{origin}: " + "; ".join(_explain(item) for item in found)) from None


def _absolute(base: Path, text: str) -> str:
    return text if "://" in text else str(base / text)


def _tuples(value: Any) -> Any:
    """TOML arrays as tuples, which strict frozen models ask for."""
    if isinstance(value, dict):
        return {key: item if key == "options" else _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"override {text!r} is not key=value, for example train.steps=100")
    *parents, last = key.split(".")
    target: Any = values
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise RecipeError(f"override {text!r}: {parent} is not a section")
    try:
        target[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        target[last] = value


def _explain(item: Any) -> str:
    where, known = _located([str(part) for part in item["loc"]])
    key = ".".join(where)
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where[-1], known, n=1)
        hint = f"; did you mean {'.'.join([*where[:-1], near[0]])}?" if near else ""
        return f"unknown key {key}{hint}"
    if item["type"] == "missing":
        return f"missing key {key}"
    if item["type"] == "union_tag_invalid":
        return f"{key}.type = {item['ctx']['tag']!r}: use {item['ctx']['expected_tags']}"
    shown = item.get("input")
    message = item["msg"].removeprefix("Value error, ")
    return f"{key} = {shown!r}: {message}" if isinstance(shown, (str, int, float, bool)) else f"{key}: {message}"


def _located(where: Sequence[str]) -> tuple[list[str], list[str]]:
    """The dotted key without the tags that pydantic adds for a choice of sections, and the keys of its section."""
    keys: list[str] = []
    sections: list[Any] = [Recipe]
    known: list[str] = []
    for part in where:
        chosen = [
            kind for kind in sections if len(sections) > 1 and part in get_args(kind.model_fields["type"].annotation)
        ]
        if chosen:
            sections = chosen
            continue
        keys.append(part)
        if not part.isdigit() and sections:
            known = list(sections[0].model_fields)
            info = sections[0].model_fields.get(part)
            sections = [] if info is None else _sections_of(info.annotation)
    return keys, known


def _sections_of(annotation: Any) -> list[Any]:
    """The section that a field holds, or those that it may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_of(part)]
