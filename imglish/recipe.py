"""The recipe: one TOML file that says what a corpus is made of and how a model is trained on it.

    recipe = load_recipe("recipes/demo.toml", ["seed=1", "tokenize.text.vocabulary=8000"])

Every section is a frozen model; unknown keys are refused with a suggestion. A field marked *run* changes
how a build runs (workers, time-outs) and never its bytes; all others are *content* and enter the manifest's
digest. `content_fields(section)` gives those.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Discriminator, Field, Tag, ValidationError, model_validator

from imglish.errors import RecipeError
from imglish.recipe_base import RUN, Section, content_fields, parse_size
from imglish.recipe_match import MatchConfig
from imglish.records import KINDS, Kind

__all__ = [
    "RUN",
    "CaptionRules",
    "CodebookConfig",
    "DecideConfig",
    "EngineName",
    "FetchConfig",
    "ImageRules",
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
    "TextRules",
    "TextTokenizerConfig",
    "TokenizeConfig",
    "TrainConfig",
    "ViewConfig",
    "VisualTokenizerConfig",
    "VqkdConfig",
    "VqkdTrainConfig",
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


class ImageRules(Section):
    """Thresholds of `image_size@1` and `image_aspect@1`."""

    min_side: int = Field(default=32, ge=1)
    """Shorter side of the original, pixels (DataComp and COYO use 200 for web photographs)."""
    max_aspect: float = Field(default=3.0, ge=1)
    """Long side over short side (DataComp basic and COYO: 3.0)."""


class CaptionRules(Section):
    """Thresholds of `caption_length@1`."""

    min_words: int = Field(default=1, ge=1)
    """Words of one caption (COYO and CC12M use 3; single-word names are kept by default)."""
    max_words: int = Field(default=256, ge=1)
    """Words of one caption (CC12M and COYO: 256)."""


class TextRules(Section):
    """Thresholds of `text_length@1` and `text_language@1`."""

    languages: tuple[str, ...] = ()
    """ISO 639-1 codes to keep; empty keeps every language."""
    min_score: float = Field(default=0.65, ge=0, le=1)
    """Confidence of the language (FineWeb and RefinedWeb: fastText 0.65)."""
    min_words: int = Field(default=50, ge=0)
    """Words in a document (Gopher: 50)."""


class DecideConfig(Section):
    """Which occurrences become samples."""

    image: ImageRules = ImageRules()
    caption: CaptionRules = CaptionRules()
    text: TextRules = TextRules()
    placeholder_urls: int = Field(default=20, ge=0)
    """More different URLs of one host than this behind the same bytes are a placeholder; 0 never says so."""
    validation_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of records in the validation split, by content."""
    captioned_images: Literal["pair", "both"] = "pair"
    """Whether an image source's picture that also has captions stays in the image stream ("both") or not."""
    alarm_share: Annotated[float, RUN] = Field(default=0.9, gt=0, le=1)
    """A rule that drops more than this share of a source is shouted about."""
    buckets: Annotated[int | None, RUN] = Field(default=None, gt=0)
    """Buckets of the grouping by record; None makes one for every 150,000 occurrences, about 25 MB."""


class StoredConfig(Section):
    """The image that goes into a shard (DESIGN section 6)."""

    short_side: int = Field(default=256, ge=16)
    """Pixels; smaller images keep their size."""
    quality: int = Field(default=90, ge=1, le=100)
    """libjpeg quality."""
    max_pixels: int = Field(default=100_000_000, gt=0)
    """A larger original is refused before it is decoded."""


class ViewConfig(Section):
    """Crop boxes and flips drawn once per record and stored with it."""

    count: int = Field(default=4, ge=1, le=64)
    """K, views per image."""
    min_scale: float = Field(default=0.2, gt=0, le=1)
    """Smallest area share of a crop (BEiT v2 recipe: 0.2)."""
    max_ratio: float = Field(default=4 / 3, ge=1)
    """Aspect of a crop is log-uniform in [1 / max_ratio, max_ratio] (BEiT v2: 4/3)."""
    flip: bool = True
    """Half of the views are mirrored."""


class TextTokenizerConfig(Section):
    """SentencePiece model; ids by facts section 5 (`<s> <pad> </s> <unk>` 0..3, pieces + 1, `<mask>` last)."""

    model: str | None = None
    """An existing `.model`/`.spm` file, relative to the recipe's `root`; None trains one on the corpus."""
    vocabulary: int = Field(default=64_000, ge=64, le=65_000)
    """Pieces to train (paper: 64k)."""
    type: Literal["unigram", "bpe"] = "unigram"
    """SentencePiece model type."""
    sample_bytes: int = Field(default=1 << 30, gt=0)
    """Budget of training text, shared evenly by (source, language)."""
    byte_fallback: bool = True
    """Unknown characters become byte pieces instead of `<unk>`."""


class CodebookConfig(Section):
    """Codes by k-means over what patches look like, fitted on the corpus: no weights are needed."""

    type: Literal["codebook"] = "codebook"
    """Which visual tokenizer this is."""
    size: int = Field(default=224, ge=16)
    """Side of the rendered view, pixels."""
    patch: int = Field(default=16, ge=4)
    """Side of a patch, pixels; the grid is (size / patch) squared."""
    codes: int = Field(default=8192, ge=2, le=8192)
    """Codebook size (BEiT v2: 8192)."""
    sample_images: int = Field(default=20_000, gt=0)
    """Training images for the fit."""
    iterations: int = Field(default=20, gt=0)
    """Lloyd iterations."""

    @model_validator(mode="after")
    def _grid(self) -> CodebookConfig:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} is not a multiple of patch {self.patch}")
        return self


class VqkdTrainConfig(Section):
    """How `imglish fit visual` trains a VQ-KD tokenizer; the defaults are BEiT v2's (facts section 4.2)."""

    teacher: str = "efficientnet-lite0"
    """Whose features are predicted: "efficientnet-lite0", "clip", "dino", or an entry point of `imglish.teachers`."""
    teacher_weights: str | None = None
    """File of the teacher's weights, relative to `root`; None takes those that the teacher's package ships."""
    patch: int = Field(default=16, ge=4)
    """Side of a patch, pixels."""
    width: int = Field(default=768, ge=64, multiple_of=64)
    """Channels of encoder and decoder; heads have 64."""
    depth: int = Field(default=12, ge=1)
    """Layers of the encoder."""
    decoder_depth: int = Field(default=3, ge=1)
    """Layers of the decoder (BEiT v2 published 1 and 3)."""
    dimension: int = Field(default=32, ge=2)
    """Length of a code's vector."""
    codes: int = Field(default=8192, ge=2, le=8192)
    """Codebook size."""
    decay: float = Field(default=0.99, ge=0, lt=1)
    """Of the codebook's moving average."""
    revive_after: int = Field(default=100, gt=0)
    """A code that no patch of so many steps took moves to a patch of the batch; ours, BEiT v2 leaves it dead."""
    kmeans_iterations: int = Field(default=10, ge=0)
    """Cosine k-means on the first batch that starts the codebook."""
    sample_images: int = Field(default=1_300_000, gt=0)
    """Training images, those with the smallest H(seed, id) of the train split."""
    views: int = Field(default=100, gt=0)
    """Different crops of an image; epoch e shows crop e mod views."""
    min_scale: float = Field(default=0.08, gt=0, le=1)
    """Smallest area share of a crop."""
    epochs: int = Field(default=100, gt=0)
    """Passes over the training images."""
    batch: int = Field(default=512, gt=0)
    """Images in a step."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak."""
    min_learning_rate: float = Field(default=1e-5, ge=0)
    """Cosine floor."""
    warmup_epochs: float = Field(default=10, ge=0)
    """Linear warm-up."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """AdamW."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Compute type of the transformers; the quantizer is always fp32."""
    evaluate_images: int = Field(default=512, gt=0)
    """Validation images that the cosine to the teacher is measured on."""
    remember_gigabytes: float = Field(default=4.0, ge=0)
    """The teacher's features of all crops are kept on disk when they are no larger than this; content, because a
    feature that was computed in another batch may differ in its last bit."""
    checkpoint_every: Annotated[int, RUN] = Field(default=200, gt=0)
    """Steps between checkpoints."""
    threads: Annotated[int | None, RUN] = None
    """CPU threads; None is all cores."""
    max_minutes: Annotated[float | None, RUN] = None
    """Stop early after this long; the schedule still runs over all epochs."""


class VqkdConfig(Section):
    """Codes by a VQ-KD network as in BEiT v2: a file that is given, or one that `imglish fit visual` trains."""

    type: Literal["vqkd"]
    """Which visual tokenizer this is."""
    weights: str | None = None
    """Official `.pth`, or a safetensors file of ours, relative to `root`; None is the one that was trained here."""
    size: int = Field(default=224, ge=16)
    """Side of the rendered view, pixels; 256 gives a /16 network the 16 x 16 grid of a patch-14 model at 224."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Compute type of the encoder; bf16 is faster, gives some other codes, and is a tokenizer digest of its own."""
    threads: int = Field(default=1, gt=0)
    """CPU threads of one worker: sums depend on them in their last bits."""
    device: Annotated[Literal["cpu", "cuda"], RUN] = "cpu"
    """Where workers encode; receipts record it, and codes of unlike devices are not mixed unasked."""
    train: VqkdTrainConfig = VqkdTrainConfig()
    """How it is trained when `weights` is left out."""


class PluginConfig(Section):
    """Codes by a package's tokenizer: an entry point of the group `imglish.visual_tokenizers`."""

    type: Literal["plugin"]
    """Which visual tokenizer this is."""
    plugin: str
    """Name of the entry point, a callable that gets `options` and returns a visual tokenizer."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to it."""


def _visual_type(value: Any) -> str:
    return str(value.get("type", "codebook") if isinstance(value, dict) else value.type)


VisualTokenizerConfig = Annotated[
    Annotated[CodebookConfig, Tag("codebook")]
    | Annotated[VqkdConfig, Tag("vqkd")]
    | Annotated[PluginConfig, Tag("plugin")],
    Discriminator(_visual_type),
]
"""Where the codes come from; `type` decides, "codebook" when left out."""


class TokenizeConfig(Section):
    """Text ids, stored images, views and codes."""

    text: TextTokenizerConfig = TextTokenizerConfig()
    visual: VisualTokenizerConfig = CodebookConfig()
    """Visual tokenizer: a section of the type that it names."""
    stored: StoredConfig = StoredConfig()
    views: ViewConfig = ViewConfig()
    batch: int = Field(default=32, gt=0)
    """Images in one encode; slots are fixed by landing, so codes do not depend on what is kept."""


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
    """Index rows of a sample by source name, 1 when absent: `{ albums = 3 }` shows each picture of that source three
    times in an epoch. A sample with occurrences of several sources gets the largest. Pairs and images only."""
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
    scratch: Annotated[str | None, RUN] = None
    """Folder of a local disk for what shuffles spill, emptied at the end; scratch/ in `work`, or a temporary one when
    `work` is elsewhere."""

    @model_validator(mode="after")
    def _sizes(self) -> RunConfig:
        parse_size(self.memory)
        return self


class ModelConfig(Section):
    """The model to train."""

    preset: Literal["tiny", "base", "large", "giant"] = "tiny"
    """Size; see `imglish.model.config.PRESETS`."""
    layout: Literal["shared", "decoupled"] = "shared"
    """"shared" is the paper's block, "decoupled" that of the released checkpoints."""


class MaskConfig(Section):
    """Shares of masked positions (paper sections 2.2 and 2.3)."""

    image: float = Field(default=0.4, gt=0, lt=1)
    """Patches of an image, block-wise, in images and pairs."""
    text: float = Field(default=0.15, gt=0, lt=1)
    """Ids of text blocks."""
    caption: float = Field(default=0.5, gt=0, lt=1)
    """Ids of captions in pairs."""


class TrainConfig(Section):
    """The training run."""

    model: ModelConfig = ModelConfig()
    masks: MaskConfig = MaskConfig()
    batch: dict[Kind, int] = Field(default_factory=lambda: dict.fromkeys(KINDS, 8))
    """Samples of each kind in one global batch (paper: 2048 each)."""
    steps: int = Field(default=1000, gt=0)
    """Optimizer steps (paper: 1M)."""
    max_minutes: Annotated[float | None, RUN] = None
    """Stop early after this long; the schedule still runs over `steps`."""
    text_length: int = Field(default=512, ge=8, le=512)
    """Ids in a row of the model: a block of 512 is cut into rows of this many; ours, the paper gives no length."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak (paper Table 11: 1e-3)."""
    min_learning_rate: float = Field(default=1e-5, ge=0)
    """Cosine floor (BEiT default; the paper gives none)."""
    warmup: int = Field(default=10_000, ge=0)
    """Linear warm-up steps (paper: 10k)."""
    weight_decay: float = Field(default=0.05, ge=0)
    """AdamW (paper Table 11)."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW (paper Table 11)."""
    epsilon: float = Field(default=1e-6, gt=0)
    """AdamW (paper Table 11)."""
    clip: float = Field(default=3.0, gt=0)
    """Gradient norm (paper Table 11)."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Stochastic depth (paper Table 11)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Compute type of forward and backward; master weights are fp32."""
    checkpoint_every: Annotated[int, RUN] = Field(default=200, gt=0)
    """Steps between checkpoints."""
    log_every: Annotated[int, RUN] = Field(default=10, gt=0)
    """Steps between lines on the terminal; JSONL gets every step."""
    evaluate_samples: int = Field(default=512, gt=0)
    """Validation samples per kind, at most."""
    threads: Annotated[int | None, RUN] = None
    """CPU threads of the model, None for all cores; part of what makes losses repeat bit for bit."""
    loader_workers: Annotated[int, RUN] = Field(default=1, ge=0)
    """Loader threads."""
    loader_processes: Annotated[bool, RUN] = False
    """Processes instead of threads: for machines with many cores, where one interpreter lock is too narrow."""
    cache: Annotated[str | None, RUN] = None
    """Local folder for the windows of a corpus behind a URL, shared by all ranks of a machine; None asks per sample."""
    cache_gigabytes: Annotated[float, RUN] = Field(default=32.0, gt=0)
    """Most that the cache holds; `imglish plan --train` says what the windows need."""


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
    def _repeated_sources(self) -> Recipe:
        kinds = {source.name: source.kind for source in self.source}
        for name in self.pack.repeat:
            if name not in kinds:
                near = difflib.get_close_matches(name, kinds, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"the sources are {', '.join(sorted(kinds))}"
                raise ValueError(f"pack.repeat names {name!r}, which is no source; {hint}")
            if kinds[name] == "text":
                raise ValueError(f"pack.repeat names {name!r}, a source of text; only pairs and images are repeated")
        return self


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
