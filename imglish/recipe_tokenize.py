"""The part of a recipe about ids, stored images, views and codes.

recipe.tokenize.text.vocabulary, recipe.tokenize.visual.type
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from imglish.recipe_base import RUN, Section


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
