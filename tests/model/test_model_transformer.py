import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from imglish.errors import ModelError
from imglish.model import MultiwayTransformer, Rows, create, normalise, pool
from imglish.model.config import Layout
from imglish.records import Kind
from tests.model import plain_reference as plain

LAYOUTS: dict[Layout, dict[str, Any]] = {"shared": {}, "decoupled": {"layout": "decoupled", "fused_layers": 0}}
SIZES = {"layers": 3, "width": 24, "ffn": 40, "heads": 3, "fused_layers": 1, "patch": 4}


def small(**changes: object) -> MultiwayTransformer:
    """A model of 3 layers on 8 x 8 pixels whose parameters, biases too, are far from their first values."""
    model = create("tiny", vocabulary=50, codes=16, image_size=8, max_text=12, **{**SIZES, **changes})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "pixels": torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1,
        "image_mask": torch.tensor([[True, False, False, True], [False, True, False, False]]),
        "ids": torch.tensor([[0, 7, 8, 9, 2], [0, 10, 2, 1, 1]]),
        "padding_mask": torch.tensor([[False] * 5, [False, False, False, True, True]]),
        "text_mask": torch.tensor([[False, True, False, True, False], [False, True, False, False, False]]),
    }


def reference(model: MultiwayTransformer, row: int, image: bool, text: bool, masks: bool) -> np.ndarray:
    weights = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}
    values = {name: value[row].numpy() for name, value in batch().items()}
    image_mask, text_mask = (values[name] & masks for name in ("image_mask", "text_mask"))
    images = plain.image_tokens(values["pixels"].astype(float), list(image_mask), 4, weights) if image else []
    texts = plain.text_tokens(list(values["ids"]), list(text_mask), model.config.mask_id, weights) if text else []
    visible = [True] * len(images) + [not pad for pad in values["padding_mask"]][: len(texts)]
    return plain.run(images, texts, visible, asdict(model.config), weights)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("kind", ["image", "text", "pair"])
def test_features_equal_those_of_a_plain_reference(kind: str, masks: bool) -> None:
    model, given = small(), batch()
    image_mask, text_mask = (given[name] if masks else None for name in ("image_mask", "text_mask"))
    if kind == "image":
        features = model.encode_image(given["pixels"], image_mask)
    elif kind == "text":
        features = model.encode_text(given["ids"], given["padding_mask"], text_mask)
    else:
        features = model.encode_pair(given["pixels"], given["ids"], given["padding_mask"], image_mask, text_mask)
    for row in range(2):
        expected = reference(model, row, kind != "text", kind != "image", masks)
        real = [True] * (5 if kind != "text" else 0) + [not pad for pad in given["padding_mask"][row].tolist()]
        seen = features[row].detach().numpy()
        kept = np.array(real[: len(seen)])
        assert np.abs(seen - expected)[kept].max() < 2e-5


def test_shapes_are_those_of_the_public_interface() -> None:
    model, given = small(), batch()
    assert model.encode_image(given["pixels"]).shape == (2, 1 + 4, 24)
    assert model.encode_text(given["ids"], given["padding_mask"]).shape == (2, 5, 24)
    assert model.encode_pair(given["pixels"], given["ids"], given["padding_mask"]).shape == (2, 1 + 4 + 5, 24)


def gradients(model: MultiwayTransformer, features: Tensor) -> set[str]:
    """Names of parameters that a loss on features reaches."""
    model.zero_grad()
    features.square().sum().backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_an_image_alone_uses_no_weight_of_text_or_pairs() -> None:
    model, given = small(), batch()
    reached = gradients(model, model.encode_image(given["pixels"], given["image_mask"]))
    assert not [name for name in reached if ".text." in name or ".pair." in name or name.startswith("text_embedding")]
    assert "layers.2.image.fc1.weight" in reached


def test_a_text_alone_uses_no_weight_of_images_or_pairs() -> None:
    model, given = small(), batch()
    reached = gradients(model, model.encode_text(given["ids"], given["padding_mask"], given["text_mask"]))
    assert not [name for name in reached if ".image." in name or ".pair." in name or name.startswith("image_embedding")]
    assert "layers.2.text.fc1.weight" in reached


def test_a_pair_uses_both_ways_below_and_only_its_own_in_the_fused_layers() -> None:
    model, given = small(), batch()
    reached = gradients(model, model.encode_pair(given["pixels"], given["ids"], given["padding_mask"]))
    assert {"layers.0.image.fc1.weight", "layers.0.text.fc1.weight", "layers.2.pair.fc1.weight"} <= reached
    assert not [name for name in reached if name.startswith(("layers.2.image", "layers.2.text"))]


def test_the_text_of_a_pair_reaches_its_image_only_through_attention() -> None:
    model, given = small(), batch()
    other = given["ids"].clone()
    other[:, 1] = 20

    def image_part(ids: Tensor) -> Tensor:
        return model.encode_pair(given["pixels"], ids, given["padding_mask"])[:, :5].detach()

    assert (image_part(given["ids"]) - image_part(other)).abs().max() > 1e-4
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.out.weight.zero_()
    assert torch.equal(image_part(given["ids"]), image_part(other))


def test_padding_changes_no_feature_of_a_real_token() -> None:
    model, given = small(), batch()
    short = model.encode_text(given["ids"][1:, :3])
    padded = model.encode_text(given["ids"], given["padding_mask"])[1:, :3]
    assert (short - padded).abs().max() < 1e-5


def test_masked_contents_cannot_be_seen() -> None:
    model, given = small(), batch()
    pixels, ids = given["pixels"].clone(), given["ids"].clone()
    pixels[0, :, :4, :4] = 0.123
    ids[0, 1] = 33
    masks = (given["padding_mask"], given["image_mask"], given["text_mask"])
    before = model.encode_pair(given["pixels"], given["ids"], *masks)
    assert torch.equal(before, model.encode_pair(pixels, ids, *masks))


def test_a_dropped_branch_leaves_its_row_alone_and_a_kept_one_is_scaled() -> None:
    model, given = small(layers=1, fused_layers=0), batch()

    def image(keep: Tensor | None) -> Tensor:
        return model.encode({"image": Rows(given["pixels"], keep=keep)})["image"]

    keep = torch.ones(1, 2, 2)
    whole = image(None)
    torch.testing.assert_close(image(keep), whole)
    keep[0, :, 0] = 0
    dropped = image(keep)
    torch.testing.assert_close(dropped[0], model.norm(model.image_embedding(given["pixels"], None))[0])
    torch.testing.assert_close(dropped[1], whole[1])


def test_bf16_on_a_cpu_is_near_fp32_with_and_without_padding() -> None:
    model, given = small(), batch()
    for padding in (None, given["padding_mask"]):
        exact = model.encode_text(given["ids"], padding)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model.encode_text(given["ids"], padding)
        real = ~given["padding_mask"] if padding is not None else torch.ones(2, 5, dtype=torch.bool)
        assert (rough.float() - exact)[real].abs().mean() < 0.05


@pytest.fixture
def unchecked() -> Iterator[None]:
    """The model as users have it: no shapes checked but by itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_annotated_shapes_are_checked_in_tests() -> None:
    model, given = small(), batch()
    with pytest.raises(jaxtyping.TypeCheckError, match="padding_mask"):
        model.encode_text(given["ids"], given["image_mask"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, g: m.encode_image(g["pixels"][:, :, :4]), r"pixels are \[2, 3, 4, 8\]"),
        (lambda m, g: m.encode_image(g["pixels"], g["text_mask"]), r"image_mask is \[2, 5\]"),
        (lambda m, g: m.encode_text(g["ids"].repeat(1, 3)), r"T up to 12"),
        (lambda m, g: m.encode_text(g["ids"], g["image_mask"]), r"padding_mask is \[2, 4\]"),
        (lambda m, g: m.encode_pair(g["pixels"], g["ids"][:1]), "2 images but 1 texts"),
        (lambda m, g: normalise(g["pixels"]), "uint8"),
    ],
)
def test_wrong_shapes_are_named(call: object, words: str, unchecked: None) -> None:
    with pytest.raises(ModelError, match=words):
        call(small(), batch())  # type: ignore[operator]


def test_normalise_maps_bytes_to_plus_and_minus_one_with_channels_first() -> None:
    images = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    images[0, 0, 1] = torch.tensor([255, 51, 204])
    assert normalise(images)[0, :, 0, 1].tolist() == pytest.approx([1.0, -0.6, 0.6])
    assert normalise(images)[0, 0].tolist() == [[-1.0, 1.0], [-1.0, -1.0]]


KINDS: tuple[Kind, ...] = ("image", "text", "pair")


def rows_of(kind: Kind, given: dict[str, Tensor], rows: slice = slice(None)) -> Rows:
    """Rows of `batch`, masked, as one kind."""
    image = {name: given[name][rows] for name in ("pixels", "image_mask")}
    text = {name: given[name][rows] for name in ("ids", "padding_mask", "text_mask")}
    return Rows(**(image if kind != "text" else {}), **(text if kind != "image" else {}))


def features_apart(model: MultiwayTransformer, kind: Kind, given: dict[str, Tensor]) -> Tensor:
    """By the call for one kind, 0 at pads."""
    image, text = (given["pixels"], given["image_mask"]), (given["padding_mask"], given["text_mask"])
    if kind == "image":
        return model.encode_image(*image)
    if kind == "text":
        return model.encode_text(given["ids"], *text).masked_fill(text[0][:, :, None], 0)
    features = model.encode_pair(image[0], given["ids"], text[0], image[1], text[1])
    seen = torch.zeros(2, 5, dtype=torch.bool)
    return features.masked_fill(torch.cat([seen, text[0]], dim=1)[:, :, None], 0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("together", [KINDS, ("image", "text"), ("pair",), ("text", "pair")])
def test_one_pass_over_kinds_gives_each_what_it_gets_alone(together: tuple[Kind, ...], layout: Layout) -> None:
    model, given = small(**LAYOUTS[layout]), batch()
    found = model.encode({kind: rows_of(kind, given) for kind in together})
    assert list(found) == [kind for kind in ("image", "pair", "text") if kind in together]
    for kind in together:
        torch.testing.assert_close(found[kind], features_apart(model, kind, given), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_at_masked_positions_equal_heads_on_all_features_there(layout: Layout) -> None:
    model, given = small(**LAYOUTS[layout]), batch()
    logits = model.predict({kind: rows_of(kind, given) for kind in KINDS})
    assert list(logits) == ["image/codes", "pair/codes", "pair/words", "text/words"]
    for name, found in logits.items():
        kind, target = name.split("/")
        features = features_apart(model, kind, given)  # type: ignore[arg-type]
        if target == "codes":
            expected = model.mim_head(features[:, 1:5])[given["image_mask"]]
        else:
            expected = model.mlm_head(features[:, -5:])[given["text_mask"]]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gradient_of_one_pass_is_that_of_whole_heads(layout: Layout) -> None:
    model, given = small(**LAYOUTS[layout]), batch()

    def gradient(logits: list[Tensor]) -> dict[str, Tensor]:
        model.zero_grad()
        sum(value.logsumexp(dim=1).sum() for value in logits).backward()  # type: ignore[union-attr]
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    short = gradient(list(model.predict({kind: rows_of(kind, given) for kind in KINDS}).values()))
    whole = []
    for kind in KINDS:
        features = features_apart(model, kind, given)
        whole += [model.mim_head(features[:, 1:5])[given["image_mask"]]] if kind != "text" else []
        whole += [model.mlm_head(features[:, -5:])[given["text_mask"]]] if kind != "image" else []
    for name, value in gradient(whole).items():
        torch.testing.assert_close(
            short[name], value, atol=1e-4, rtol=1e-4, msg=lambda told, name=name: f"{name} {told}"
        )


def test_predictions_are_of_the_masks_that_are_given() -> None:
    model, given = small(), batch()
    text = Rows(ids=given["ids"], text_mask=torch.zeros(2, 5, dtype=torch.bool))
    assert model.predict({"image": Rows(given["pixels"])}) == {}
    assert model.predict({"text": text})["text/words"].shape == (0, 50)
    only = model.predict({"pair": Rows(given["pixels"], given["ids"], image_mask=given["image_mask"])})
    assert {name: list(value.shape) for name, value in only.items()} == {"pair/codes": [3, 16]}
    headless = small(has_mlm_head=False)
    with pytest.raises(ModelError, match="has no mlm_head"):
        headless.predict({"text": rows_of("text", given)})


def test_rows_may_say_what_is_shown_of_masked_ids() -> None:
    model, given = small(), batch()
    masked = given["ids"].masked_fill(given["text_mask"], model.config.mask_id)
    rows = rows_of("text", given)
    expected = model.predict({"text": rows})["text/words"]
    found = model.predict({"text": replace(rows, shown=masked)})["text/words"]
    assert torch.equal(found, expected)
    assert not torch.equal(model.predict({"text": replace(rows, shown=given["ids"])})["text/words"], expected)


def test_a_row_of_nothing_but_pads_harms_nobody() -> None:
    model, given = small(), batch()
    padding = given["padding_mask"].clone()
    padding[0] = True
    rows = Rows(ids=given["ids"], padding_mask=padding, text_mask=given["text_mask"] & ~padding)
    model.predict({"text": rows})["text/words"].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.encode_text(given["ids"], padding).isfinite().all()


def test_the_three_static_shapes_compile_without_a_graph_break() -> None:
    """In a process of its own: the run-time checks of shapes here are more than the compiler can follow."""
    subprocess.run([sys.executable, "-W", "error", "-m", "tests.model.compile_whole"], check=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_either_layout_learns_a_batch_by_heart_from_its_first_values(layout: Layout) -> None:
    sizes = {**SIZES, **LAYOUTS[layout], "init_range": 0.02}
    model, given = create("tiny", vocabulary=50, codes=16, image_size=8, max_text=12, **sizes), batch()
    rows = {kind: rows_of(kind, given) for kind in KINDS}
    codes = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])
    labels = {"codes": codes[given["image_mask"]], "words": given["ids"][given["text_mask"]]}
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=2e-2), []
    for _ in range(40):
        found = model.predict(rows)
        parts = [functional.cross_entropy(out, labels[name.split("/")[1]]) for name, out in found.items()]
        loss = torch.stack(parts).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2 * np.log(16) + 2 * np.log(50), rel=0.1)
    assert losses[-1] < 0.3 * losses[0]


def test_pooled_features() -> None:
    features = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(pool(features), features[:, 0])
    assert torch.equal(pool(features, "patches"), features[:, 1:].mean(dim=1))
    assert torch.equal(pool(features, "mean"), features.mean(dim=1))
    padding = torch.tensor([[False, False, True], [True, True, True]])
    assert torch.equal(pool(features, "mean", padding), torch.stack([features[0, :2].mean(dim=0), torch.zeros(4)]))


def test_normalise_takes_a_models_own_mean_and_deviation() -> None:
    images = torch.full((1, 1, 1, 3), 51, dtype=torch.uint8)
    found = normalise(images, (0.1, 0.2, 0.3), (0.5, 1.0, 0.25))
    assert found.flatten().tolist() == pytest.approx([0.2, 0.0, -0.4])
