"""What a run costs, against counts that know nothing of our formulas."""

from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from imglish.errors import RecipeError
from imglish.model import ModelConfig, MultiwayTransformer, Rows, create
from imglish.model.config import make_config
from imglish.model.operations import Work, step_operations
from imglish.model.route import Only, make_route
from imglish.plan_training import plan_training
from imglish.recipe import TrainConfig, make_recipe
from imglish.recipe_train import pretrain_base, pretrain_giant, pretrain_large
from imglish.records import Kind
from imglish.trainer.mfu import DEVICES, peak_of, utilisation
from imglish.training_budget import Terms, activation_bytes, implied_mfu, parameter_counts, plan_budget, planned_work

MASKED = {"image/codes": 30, "pair/codes": 20, "pair/words": 8, "text/words": 9}


def rows_on_meta(config: ModelConfig, count: int, length: int, caption: int) -> dict[Kind, Rows]:
    with torch.device("meta"):
        pixels = torch.empty(count, 3, config.image_size, config.image_size)
        texts, captions = (torch.empty(count, n, dtype=torch.int64) for n in (length, caption))
    return {"image": Rows(pixels), "pair": Rows(pixels, captions), "text": Rows(ids=texts)}


def counted(config: ModelConfig, count: int, length: int, caption: int) -> float:
    """Operations of forward and backward by torch's counter, on tensors without memory."""
    with torch.device("meta"):
        model = MultiwayTransformer(config)
        chosen = Only(torch.empty(sum(MASKED.values()), dtype=torch.int64), list(MASKED.values()))
    rows = rows_on_meta(config, count, length, caption)
    assert model.mim_head is not None and model.mlm_head is not None
    with FlopCounterMode(display=False) as counter:
        features = model._run(rows, make_route(config, rows, pack=True), chosen)
        codes, words = torch.split(features, [50, 17])
        (model.mim_head(codes).sum() + model.mlm_head(words).sum()).backward()
    return float(counter.get_total_flops())


@pytest.mark.parametrize(
    ("preset", "layout"), [("tiny", "shared"), ("base", "shared"), ("base", "decoupled"), ("giant", "shared")]
)
def test_operations_are_within_two_percent_of_an_independent_count(preset: str, layout: str) -> None:
    config = make_config(preset, layout=layout)
    image = 1 + config.patches
    rows: dict[Kind, list[int]] = {"image": [image] * 3, "pair": [image + 20] * 3, "text": [128] * 3}
    ours = step_operations(config, Work(rows, 50, 17))
    assert ours == pytest.approx(counted(config, 3, 128, 20), rel=0.02)


@pytest.mark.parametrize("layout", ["shared", "decoupled"])
def test_activations_are_within_two_percent_of_what_torch_saves(layout: Any) -> None:
    model = create("tiny", layout, vocabulary=500, codes=64, image_size=64, layers=4)
    image_mask, text_mask = torch.zeros(2, 16, dtype=torch.bool), torch.zeros(2, 32, dtype=torch.bool)
    image_mask[:, :6], text_mask[:, 1:6] = True, True
    pixels, ids = torch.rand(2, 3, 64, 64), torch.zeros(2, 32, dtype=torch.int64)
    rows: dict[Kind, Rows] = {
        "image": Rows(pixels, image_mask=image_mask),
        "pair": Rows(pixels, ids, image_mask=image_mask, text_mask=text_mask),
        "text": Rows(ids=ids, text_mask=text_mask),
    }
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = [functional.cross_entropy(x, torch.zeros(len(x)).long()) for x in model.predict(rows).values()]
    found = sum(tensor.untyped_storage().nbytes() for place, tensor in held.items() if place not in own)
    assert len(losses) == 4
    work = Work({"image": [17] * 2, "pair": [17 + 32] * 2, "text": [32] * 2}, 24, 20)
    assert activation_bytes(TrainConfig(), model.config, work) == pytest.approx(found, rel=0.02)


def test_memory_of_a_device_is_parameters_and_what_the_optimizer_holds() -> None:
    config = make_config("base")
    with torch.device("meta"):
        whole = sum(parameter.numel() for parameter in create("base").parameters())
    assert sum(parameter_counts(config)) == whole
    alone = plan_budget(TrainConfig(batch={"text": 1}), config, Terms(world_size=1))
    assert sum(alone.bytes[name] for name in ("weights", "gradients", "optimizer")) == 16 * whole
    cut = plan_budget(TrainConfig(batch={"text": 8}, parallel="fsdp"), config, Terms(world_size=8))
    assert cut.bytes["optimizer"] == alone.bytes["optimizer"] / 8
    small = plan_budget(TrainConfig(batch={"text": 8}, activation_checkpointing=True), config, Terms())
    full = plan_budget(TrainConfig(batch={"text": 8}), config, Terms())
    assert small.bytes["activations"] < 0.4 * full.bytes["activations"]


def test_two_weeks_of_the_papers_devices_are_ten_to_fifteen_percent() -> None:
    config = make_config("giant")
    assert 0.14 < implied_mfu(pretrain_giant(), config) < 0.15
    assert 0.095 < implied_mfu(pretrain_giant(caption_length=40, text_length=196), config, 196) < 0.105


def test_time_and_cost_follow_from_operations() -> None:
    config = make_config("giant")
    budget = plan_budget(pretrain_giant(), config, Terms("h100", 64, mfu=0.5, price=2.0))
    assert budget.step_seconds == pytest.approx(budget.operations / (64 * 0.5 * 989e12))
    assert budget.cost == pytest.approx(2.0 * 64 * 1e6 * budget.step_seconds / 3600)
    assert utilisation(budget.operations, budget.step_seconds, 989e12, 64) == pytest.approx(0.5)
    assert planned_work(pretrain_giant(), config).tokens == 2048 * (257 + 257 + 64 + 512)


@pytest.mark.parametrize("preset", [pretrain_base, pretrain_large, pretrain_giant])
def test_a_presets_docstring_tells_its_cost(preset: Any) -> None:
    train = preset()
    budget = plan_budget(train, make_config(train.model.preset), Terms("a100-40gb", 256, mfu=0.4, price=1.5))
    assert f"{budget.operations / 1e15:.2f} P operations a step" in preset.__doc__
    assert f"{round(budget.device_hours, -2):,.0f} A100 hours" in preset.__doc__


def test_peaks_are_found_by_the_names_that_torch_gives() -> None:
    assert peak_of("NVIDIA A100-SXM4-40GB", "bf16") == 312e12
    assert peak_of("NVIDIA H100 80GB HBM3", "fp32") == 67e12
    assert peak_of("NVIDIA L40S", "bf16") == DEVICES["l40s"].bf16
    assert peak_of("NVIDIA A10", "bf16") == DEVICES["a10"].bf16
    for other in ("AMD EPYC", "NVIDIA A10G", "NVIDIA L40"):
        assert peak_of(other, "bf16") is None


def test_a_run_is_planned_before_its_corpus_is_there() -> None:
    source = {"name": "a", "format": "folder", "kind": "pair", "path": "a"}
    recipe = make_recipe({"name": "r", "work": "/nowhere", "source": [source], "train": {"model": {"preset": "giant"}}})
    lines = list(plan_training(recipe, terms=Terms(world_size=8)))
    assert lines[0].startswith("giant (shared), 1,9") and any("MFU" in line for line in lines)
    assert "left out" in lines[-1]
    told = next(line for line in lines if line.startswith("the paper's run"))
    assert "an MFU of 14.6%" in told  # of the paper's batch and steps, whatever this recipe asks for
    with pytest.raises(RecipeError, match="--device a101 is not known; there are a100-40gb"):
        list(plan_training(recipe, terms=Terms("a101")))
