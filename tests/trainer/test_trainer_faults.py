"""What a run does about bad batches, limits, damaged disks and schedules that change."""

import itertools
import json
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imglish.errors import TrainError
from imglish.model import create
from imglish.recipe import TrainConfig
from imglish.shards.reader import open_corpus
from imglish.shards.replay import order_of_run, replay
from imglish.trainer import train
from imglish.trainer.checkpoint import Checkpoints, latest, load
from imglish.trainer.loop import Trainer
from imglish.trainer.metrics import read_metrics
from imglish.trainer.optimizer import build_optimizer, learning_rate, set_learning_rate, update_average
from imglish.trainer.parallel import Place
from imglish.trainer.run import read_run
from tests.trainer.rank_helpers import untimed
from tests.trainer.trainer_helpers import config, corpus

ALONE = Place(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"))


@contextmanager
def trainer(manifest: Path, settings: TrainConfig, out: Path) -> Iterator[Trainer]:
    with closing(Trainer(str(manifest), settings, 5, out, ALONE)) as made:
        made.start("auto")
        yield made


def test_a_bounded_number_of_steps_that_are_not_finite_is_skipped_and_recorded(manifest: Path, tmp_path: Path) -> None:
    with trainer(manifest, config(steps=5, skip_non_finite=1), tmp_path) as made:
        head = made.model.mlm_head
        assert head is not None
        calls = itertools.count(1)
        head.weight.register_hook(lambda gradient: gradient * math.nan if next(calls) == 3 else gradient)
        made.run(None)
        weights = made.model.state_dict()
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record.get("skipped") for record in records] == [None, None, "not finite", None, None]
    assert records[2]["gradient_norm"] is None and records[3]["gradient_norm"] > 0
    assert all(value.isfinite().all() for value in weights.values())
    listed = json.loads((tmp_path / "failed-batch-00000003.json").read_text())
    assert listed["batch_digest"] == records[2]["batch_digest"] and listed["numbers"]["gradient_norm"] == "nan"
    found = latest(tmp_path / "checkpoints")
    assert found is not None and found.facts["not_finite"] == [3]


def test_steps_to_skip_are_passed_over_and_their_batch_is_not_trained_on(manifest: Path, tmp_path: Path) -> None:
    train(manifest, config(steps=3), 5, tmp_path)
    train(manifest, config(steps=3), 5, tmp_path / "whole")
    with pytest.raises(TrainError, match=r"steps_to_skip was \[\] and is \[2\]"):
        train(manifest, config(steps=3, steps_to_skip=(2,)), 5, tmp_path)
    train(manifest, config(steps=3, steps_to_skip=(2,)), 5, tmp_path / "skipped")
    whole, skipped = untimed(tmp_path / "whole"), untimed(tmp_path / "skipped")
    assert skipped[1] == {"step": 2, "position": 1, "skipped": "asked"}
    assert skipped[0] == whole[0] and skipped[2]["batch_digest"] == whole[2]["batch_digest"]
    assert skipped[2]["loss_nats"] != whole[2]["loss_nats"]


def test_a_hard_stop_leaves_the_schedule_as_it_is(manifest: Path, tmp_path: Path) -> None:
    result = train(manifest, config(hard_stop=4), 5, tmp_path)
    assert (result.status, result.step) == ("stopped", 4)
    assert train(manifest, config(), 5, tmp_path).status == "finished"
    train(manifest, config(), 5, tmp_path / "whole")
    assert untimed(tmp_path) == untimed(tmp_path / "whole")


def test_everything_that_can_be_watched_is_there(manifest: Path, tmp_path: Path) -> None:
    watched = {"evaluate_every": 2, "picture_every": 2, "profile_at": 2, "profile_steps": 2, "ema": 0.9}
    train(manifest, config(steps=4, **watched), 5, tmp_path)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert {"tokens", "tokens_per_second", "data_wait_share", "peak_memory_bytes", "epochs/pair"} <= records[0].keys()
    assert [("validation/loss_nats/pair/words" in record) for record in records] == [False, True, False, True]
    assert records[3]["epochs/pair"] == 4 * 2 / 6
    assert [path.name for path in (tmp_path / "profile").iterdir()] == ["trace-0.json.gz"]
    pixels = np.asarray(Image.open(tmp_path / "pictures" / "step-00000004.png"))
    assert pixels.shape == (224, 4 * 224, 3) and pixels.std() > 0
    words = (tmp_path / "pictures" / "step-00000004.txt").read_text()
    assert words.count("[") == words.count("]") > 0  # ids: the corpus has no tokenizer's file


def test_watching_changes_no_loss(manifest: Path, tmp_path: Path) -> None:
    train(manifest, config(steps=4), 5, tmp_path / "plain")
    seen = {"evaluate_every": 1, "picture_every": 1, "asynchronous": True, "keep_every": 2, "checkpoint_every": 1}
    train(manifest, config(steps=4, **seen), 5, tmp_path / "watched")
    watched = [
        {name: value for name, value in record.items() if "validation" not in name}
        for record in untimed(tmp_path / "watched")
    ]
    assert watched == untimed(tmp_path / "plain")


def test_a_batch_schedule_changes_the_counts_at_its_step(manifest: Path, tmp_path: Path) -> None:
    changing = config(steps=4, schedule=((2, {"pair": 4, "image": 2, "text": 2}),))
    train(manifest, changing, 5, tmp_path)
    records = untimed(tmp_path)
    order = order_of_run(tmp_path / "run.json", open_corpus(str(manifest)))
    for record in records:
        assert replay(open_corpus(str(manifest)), order, record["step"]).digest == record["batch_digest"]
    assert records[3]["epochs/pair"] == (2 * 2 + 2 * 4) / 6


def test_a_run_repeated_from_its_run_file_has_its_batches_and_losses(manifest: Path, tmp_path: Path) -> None:
    train(manifest, config(hard_stop=3, ema=0.5), 5, tmp_path / "first")
    facts, settings, seed = read_run(tmp_path / "first" / "run.json")
    train(facts["corpus"]["manifest"], settings, seed, tmp_path / "second", repeats=facts)
    assert untimed(tmp_path / "first") == untimed(tmp_path / "second")
    assert json.loads((tmp_path / "second" / "run.json").read_text())["repeats"]["differs"] == []


def test_a_run_is_not_repeated_on_another_corpus_or_from_another_file(manifest: Path, tmp_path: Path) -> None:
    train(manifest, config(steps=1), 5, tmp_path / "first")
    facts, settings, seed = read_run(tmp_path / "first" / "run.json")
    facts["identity"]["data_digest"] = "0" * 64
    with pytest.raises(TrainError, match=r"not what the run was: data_digest was '0000.*--manifest"):
        train(manifest, settings, seed, tmp_path / "second", repeats=facts)
    with pytest.raises(TrainError, match=r"is no run\.json"):
        read_run(manifest)
    with pytest.raises(TrainError, match="cannot be read"):
        read_run(tmp_path / "none.json")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_permanent_checkpoints_stay_and_others_go(tmp_path: Path, asynchronous: bool) -> None:
    values = torch.zeros(3)
    checkpoints = Checkpoints(tmp_path, keep_every=4, asynchronous=asynchronous)
    for step in range(1, 8):
        values.fill_(step)
        checkpoints.save(step, {"values": values}, {})
        values.fill_(-1)  # what comes after the call does not get in
    checkpoints.finish()
    assert sorted(int(path.name[-1]) for path in tmp_path.iterdir()) == [4, 6, 7]
    found, fresh = latest(tmp_path), torch.zeros(3)
    assert found is not None
    load(found, {"values": fresh})
    assert fresh.tolist() == [7, 7, 7]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_disk_that_refuses_ends_the_run_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imglish.trainer.checkpoint._sync", full)
    checkpoints = Checkpoints(tmp_path, asynchronous=asynchronous)
    with pytest.raises(TrainError, match=r"cannot write checkpoint .*No space left on device; free space"):
        checkpoints.save(1, {"values": torch.zeros(3)}, {})
        checkpoints.finish()
    assert latest(tmp_path) is None


def test_parts_that_do_not_divide_a_batch_are_refused(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="accumulate 2 does not divide a rank's 1 text rows"):
        train(manifest, config(accumulate=2), 5, tmp_path)


def test_rates_stay_or_go_down_as_their_schedule_says() -> None:
    constant = config(rate="constant", steps=100, warmup=10)
    assert {learning_rate(step, constant) for step in range(9, 100)} == {constant.learning_rate}
    wsd = config(rate="wsd", cooldown=0.2, steps=100, warmup=10, learning_rate=1e-2, min_learning_rate=0.0)
    rates = [learning_rate(step, wsd) for step in range(100)]
    assert rates[10] == rates[80] == 1e-2
    assert rates[90] == pytest.approx(5e-3) and learning_rate(100, wsd) == 0
    with pytest.raises(ValueError, match=r"warmup 90 and cooldown 0\.2 take more than 100 steps"):
        config(rate="wsd", cooldown=0.2, steps=100, warmup=90)


def test_layers_below_learn_more_slowly_by_the_decay() -> None:
    model = create("tiny", vocabulary=50, codes=8, image_size=16)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, config(layer_decay=0.5))
    set_learning_rate(optimizer, 1.0)
    rates = {names[id(each)]: group["lr"] for group in optimizer.param_groups for each in group["params"]}
    assert rates["mlm_head.weight"] == rates["norm.weight"] == 1.0
    assert [rates[f"layers.{layer}.text.fc1.weight"] for layer in range(3)] == [0.125, 0.25, 0.5]
    assert rates["text_embedding.weight"] == rates["image_embedding.cls_token"] == 0.0625


def test_the_average_moves_towards_the_parameters() -> None:
    model = torch.nn.Linear(2, 1)
    average = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for _ in range(2):
        update_average(average, model, 0.75)
    assert torch.allclose(average["weight"], (1 - 0.75**2) * model.weight)
