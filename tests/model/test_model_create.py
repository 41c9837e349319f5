import itertools
import math

import pytest
import torch
from torch import nn

from imglish.errors import ModelError
from imglish.model import PRESETS, create
from imglish.model.config import Layout, make_config
from imglish.model.initialise import initialise


def count(module: nn.Module, *parts: str) -> float:
    """Millions of parameters whose name has all of these parts, norms left out."""
    found = [p.numel() for n, p in module.named_parameters() if all(q in n for q in parts) and "norm" not in n]
    return sum(found) / 1e6


def test_giant_has_the_parameter_counts_of_the_papers_table() -> None:
    with torch.device("meta"):
        giant = create("giant")
    assert count(giant, ".image.") == pytest.approx(692.4, abs=0.05)
    assert count(giant, ".text.") == pytest.approx(692.4, abs=0.05)
    assert count(giant, ".pair.") == pytest.approx(51.9, abs=0.05)
    assert count(giant, ".attention.") == pytest.approx(317.4, abs=0.05)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_makes_a_model(preset: str) -> None:
    with torch.device("meta"):
        model = create(preset)  # type: ignore[arg-type]
    assert sum(layer.pair is not None for layer in model.layers) == model.config.fused_layers


def test_the_mask_id_is_the_last_id_but_in_the_released_vocabulary() -> None:
    with torch.device("meta"):
        assert create("tiny", vocabulary=8000).config.mask_id == 7999
        assert create("tiny").config.mask_id == 64_001
        assert create("tiny", vocabulary=8000, mask_id=5).config.mask_id == 5


def test_parameters_start_in_the_papers_range_with_deeper_outputs_smaller() -> None:
    model = create("tiny", vocabulary=500, codes=32, image_size=32, init_range=0.02)
    named = dict(model.named_parameters())
    for name, value in named.items():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "norm" in name:
            assert torch.equal(value, torch.ones_like(value)), name
        else:
            layer = int(name.split(".")[1]) + 1 if name.startswith("layers") else 0
            bound = 0.02 / (2 * layer) ** 0.5 if name.endswith(("out.weight", "fc2.weight")) else 0.02
            assert value.abs().max() <= bound, name
            if value.numel() > 10_000:
                assert value.std().item() == pytest.approx(bound / 3**0.5, rel=0.02), name


def test_parameters_are_a_function_of_seed_and_name() -> None:
    first, again, other = (
        create("tiny", vocabulary=50, codes=8, image_size=16, seed=s).state_dict() for s in (3, 3, 4)
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["mlm_head.weight"], other["mlm_head.weight"])
    assert not torch.equal(first["layers.0.image.fc1.weight"], first["layers.0.text.fc1.weight"])
    deeper = create("tiny", vocabulary=50, codes=8, image_size=16, seed=3, layers=6).state_dict()
    assert torch.equal(first["layers.1.text.fc1.weight"], deeper["layers.1.text.fc1.weight"])


def test_the_first_values_never_change() -> None:
    layer = nn.Linear(2, 2)
    initialise(layer, make_config("base"), seed=0)
    golden = [0.009214731, 0.006322289, -0.000040621, 0.017187255]
    assert layer.weight.flatten().tolist() == pytest.approx(golden, abs=1e-8)


@pytest.mark.parametrize(("layout", "init_range"), [("shared", 0.047), ("decoupled", 0.02)])
def test_activations_and_gradients_keep_their_scale_through_forty_layers(layout: Layout, init_range: float) -> None:
    """Of a giant with 256 channels; a range of 0.047 there is what 0.02 is to 1,408."""
    sizes = {"width": 256, "ffn": 1024, "heads": 4, "vocabulary": 64, "codes": 8, "image_size": 28}
    model = create("giant", layout, init_range=init_range, final_norm=False, **sizes)
    pixels = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scales = [model.image_embedding(pixels, None).std().item()]
    for layer in model.layers:
        layer.register_forward_hook(lambda _, __, out: scales.append(out.std().item()))
    model.encode_image(pixels).square().mean().backward()
    start, *rest = scales
    steps = [after / before for before, after in itertools.pairwise(rest)]
    assert min(steps) > 0.8 and max(steps) < 2
    assert rest[-1] < 30 * max(1.0, start)
    norms = [float(layer.image.fc1.weight.grad.norm()) for layer in model.layers]
    assert max(norms) < 30 * min(norms)


def test_the_decoupled_layout_starts_as_magneto_says() -> None:
    model = create("tiny", "decoupled", vocabulary=500, codes=32, image_size=32)
    gain, named = math.sqrt(math.log(2 * 3)), dict(model.named_parameters())
    xavier = math.sqrt(6 / (192 + 192))
    queries, keys, values = named["layers.1.attention.qkv.text.weight"].chunk(3)
    for value, bound in ((queries, xavier), (keys, xavier), (values, gain * xavier)):
        assert 0.98 * bound < value.abs().max() <= bound
    for name, fans in (("image.fc1", 192 + 768), ("text.fc2", 192 + 768), ("attention.out.image", 192 + 192)):
        bound = gain * math.sqrt(6 / fans)
        assert 0.98 * bound < named[f"layers.2.{name}.weight"].abs().max() <= bound
    assert named["text_embedding.positions"].abs().max() <= model.config.init_range
    assert model.image_embedding.cls_token.any() and model.image_embedding.mask_token.any()
    assert not any(value.any() for name, value in named.items() if name.endswith("bias"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"widht": 3}, "did you mean 'width'"),
        ({"width": 32}, "not a multiple of model.heads"),
        ({"image_size": 100}, "not a multiple of model.patch"),
        ({"fused_layers": 9}, "fused_layers is 9"),
        ({"mask_id": 64_010}, "outside the vocabulary"),
        ({"codes": 0}, "codes is 0"),
        ({"layout": "released"}, "layout is 'released'"),
        ({"layout": "decoupled", "fused_layers": 1}, "no expert for pairs"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        make_config("tiny", **fields)


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean 'large'"):
        make_config("larg")
