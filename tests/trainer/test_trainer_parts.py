import io
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imglish.errors import TrainError
from imglish.model import create
from imglish.recipe import WeightConfig
from imglish.shards.batches import KindBatch
from imglish.trainer import watch
from imglish.trainer.batches import to_inputs
from imglish.trainer.drop_path import keep_scales
from imglish.trainer.losses import Score, loss_of, masked_scores, total_loss
from imglish.trainer.metrics import MetricsLog, read_metrics
from imglish.trainer.optimizer import build_optimizer, learning_rate
from imglish.trainer.run import check_identity
from tests.trainer.trainer_helpers import config

CPU = torch.device("cpu")


def text(rows: list[list[int]]) -> KindBatch:
    ids = np.array(rows, dtype=np.int64)
    return KindBatch(ids=ids, padding_mask=ids == 1, text_mask=ids == 9)


def test_blocks_are_cut_into_rows_and_rows_of_padding_are_left_out() -> None:
    inputs = to_inputs(text([[0, 5, 9, 6, 7, 2], [0, 9, 2, 1, 1, 1]]), text_length=3, device=CPU)
    assert inputs.ids is not None and inputs.padding_mask is None and inputs.text_mask is not None
    assert inputs.ids.tolist() == [[0, 5, 9], [6, 7, 2], [0, 9, 2]]
    assert inputs.text_mask.nonzero().tolist() == [[0, 2], [2, 1]]
    assert inputs.rows == 3


def test_what_is_shown_of_words_is_cut_with_them_and_seen_by_the_model() -> None:
    words = text([[0, 5, 9, 6, 7, 2], [0, 9, 2, 1, 1, 1]])
    assert words.ids is not None
    other = replace(words, shown=np.where(words.ids == 9, 5, words.ids))
    inputs = to_inputs(other, text_length=3, device=CPU)
    assert inputs.shown is not None and inputs.shown.tolist() == [[0, 5, 5], [6, 7, 2], [0, 5, 2]]
    model = create("tiny", vocabulary=50, codes=8, image_size=16).eval()
    losses = [masked_scores(model, {"text": to_inputs(one, 3, CPU)})["text/words"] for one in (words, other)]
    assert [loss.positions for loss in losses] == [2, 2] and torch.equal(losses[0].true, losses[1].true)
    assert losses[0].loss_sum != losses[1].loss_sum


def test_a_row_that_ends_in_padding_keeps_its_padding_mask() -> None:
    inputs = to_inputs(text([[0, 5, 2, 1]]), text_length=4, device=CPU)
    assert inputs.padding_mask is not None and inputs.padding_mask.tolist() == [[False, False, False, True]]


def test_a_length_that_does_not_divide_a_block_is_refused() -> None:
    with pytest.raises(TrainError, match=r"text_length 5 does not divide blocks of 6 ids"):
        to_inputs(text([[0, 5, 9, 6, 7, 2]]), text_length=5, device=CPU)


def test_captions_are_trimmed_to_the_longest_and_pixels_normalised() -> None:
    words = text([[0, 9, 2, 1, 1], [0, 5, 6, 2, 1]])
    batch = KindBatch(
        images=np.full((2, 4, 4, 3), 255, dtype=np.uint8),
        codes=np.array([[3], [4]]),
        image_mask=np.array([[True], [False]]),
        ids=words.ids,
        padding_mask=words.padding_mask,
        text_mask=words.text_mask,
    )
    inputs = to_inputs(batch, text_length=999, device=CPU)
    assert inputs.ids is not None and inputs.ids.tolist() == [[0, 9, 2, 1], [0, 5, 6, 2]]
    assert inputs.pixels is not None and torch.equal(inputs.pixels, torch.ones(2, 3, 4, 4))


def test_the_rate_rises_linearly_then_falls_as_a_cosine_to_the_floor() -> None:
    settings = config(steps=110, warmup=10, learning_rate=1e-2, min_learning_rate=1e-4)
    rates = [learning_rate(step, settings) for step in range(110)]
    assert rates[:10] == pytest.approx([1e-3 * step for step in range(1, 11)])
    assert rates[10] == 1e-2
    assert rates[60] == pytest.approx((1e-2 + 1e-4) / 2)
    assert learning_rate(110, settings) == pytest.approx(1e-4)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))


def test_weights_decay_and_norms_biases_positions_and_tokens_do_not() -> None:
    model = create("tiny", vocabulary=50, codes=8, image_size=16)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = (group["params"] for group in build_optimizer(model, config()).param_groups)
    assert {names[id(p)] for p in decayed} == {
        name for name in names.values() if name.endswith("weight") and "norm" not in name
    }
    assert len(decayed) + len(plain) == len(names)
    assert {"image_embedding.cls_token", "text_embedding.positions"} <= {names[id(p)] for p in plain}


def test_stochastic_depth_drops_at_its_rate_keeps_the_mean_and_spares_the_first_layer() -> None:
    rows = np.arange(4000)
    keep = keep_scales(rate=0.2, layers=5, numbers=rows, seed=0, step=3, kind="pair")
    assert (keep[0] == 1).all()
    for layer in range(1, 5):
        rate = 0.2 * layer / 4
        assert (keep[layer] == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
        assert keep[layer].mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(keep, keep_scales(0.2, 5, rows, 0, 3, "pair"))
    assert not torch.equal(keep, keep_scales(0.2, 5, rows, 0, 4, "pair"))


def test_a_row_keeps_its_drop_path_whatever_rank_it_is_on() -> None:
    whole = keep_scales(0.5, 3, np.arange(8), 0, 3, "text")
    assert torch.equal(whole[:, :, 1::2], keep_scales(0.5, 3, np.arange(1, 8, 2), 0, 3, "text"))


def score(*losses: float) -> Score:
    values = torch.tensor(losses)
    return Score(values, torch.zeros(len(losses)), torch.zeros(len(losses)))


def test_every_masked_position_of_a_target_weighs_the_same_times_its_weight() -> None:
    scores = {"image/codes": score(1.0, 2.0, 3.0), "pair/codes": score(6.0), "text/words": score(5.0)}
    counts = torch.tensor([3, 1, 0, 1])
    assert total_loss(scores, counts, WeightConfig()).item() == pytest.approx((1 + 2 + 3 + 6) / 4 + 5)
    assert total_loss({**scores, "pair/words": score()}, counts, WeightConfig()).item() == pytest.approx(8)
    weighted = total_loss(scores, counts, WeightConfig(pair_codes=2.0, text_words=0.0))
    assert weighted.item() == pytest.approx((1 + 2 + 3 + 2 * 6) / 4)
    assert loss_of(torch.tensor([6.0, 6.0, 0.0, 5.0]), counts, WeightConfig()) == pytest.approx(8)
    with pytest.raises(TrainError, match="no position of the batch is masked"):
        total_loss({"pair/words": score()}, torch.zeros(4, dtype=torch.int64), WeightConfig())


def test_a_resumed_log_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    for step in range(1, 6):
        log.write({"step": step, "loss_nats": 1 / step})
    log.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 6, "loss')
    log = MetricsLog(tmp_path, 3)
    log.write({"step": 4, "loss_nats": 0.5})
    log.close()
    assert [(r["step"], r["loss_nats"]) for r in read_metrics(tmp_path / "metrics.jsonl")] == [
        (1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.5),
    ]  # fmt: skip
    assert list((tmp_path / "tensorboard").iterdir())


def record(step: int) -> dict[str, Any]:
    numbers = {"loss_nats": 9.5, "loss_nats/pair/words": 6.25, "accuracy/pair/words": 0.5, "epochs/pair": 0.5}
    numbers |= {"samples_per_second": 40.0, "tokens_per_second": 900.0}
    return {"step": step, **numbers, "data_wait_share": 0.1, "learning_rate": 1e-3, "gradient_norm": 2.0}


def test_without_a_terminal_progress_is_one_plain_line_every_few_steps() -> None:
    stream = io.StringIO()
    with watch(config(steps=25, log_every=10), stream) as progress:
        for step in range(1, 26):
            progress(record(step))
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["10/25", "20/25", "25/25"]
    assert (
        lines[0] == "step 10/25  loss 9.500 nats (pair/words 6.250)  40.0 samples/s, 900 tokens/s, waiting for data 10%"
    )


def test_on_a_terminal_progress_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setenv("TERM", "xterm")
    with watch(config(steps=25), stream) as progress:
        progress(record(7))
    assert "step 7 of 25" in stream.getvalue() and "pair/words" in stream.getvalue()


def test_differing_runs_are_told_apart_field_by_field(tmp_path: Path) -> None:
    here = {"seed": 0, "train": {"steps": 5, "betas": (0.9, 0.98)}}
    check_identity(here, {"seed": 0, "train": {"steps": 5, "betas": [0.9, 0.98]}}, tmp_path)
    with pytest.raises(TrainError, match=r"seed was 1 and is 0; train\.steps was 6 and is 5"):
        check_identity(here, {"seed": 1, "train": {"steps": 6, "betas": [0.9, 0.98]}}, tmp_path)


def test_losses_in_nats_start_near_the_logarithm_of_the_choices() -> None:
    model = create("tiny", vocabulary=50, codes=8, image_size=16)
    inputs = to_inputs(text([[0, 9, 9, 9, 5, 2]]), text_length=6, device=CPU)
    from imglish.trainer.losses import masked_scores

    scores = masked_scores(model, {"text": inputs})
    assert scores["text/words"].loss_sum.item() / 3 == pytest.approx(math.log(50), abs=0.7)
