"""Losses of a small run that are kept here: a refactoring means identical losses."""

import json
from pathlib import Path

import pytest

from imglish.trainer import train
from tests.trainer.rank_helpers import untimed
from tests.trainer.trainer_helpers import config, corpus

GOLDEN = Path(__file__).with_name("golden_losses.json")
TOLERANCE = 1e-3
"""Relative, across machine types: last bits of float sums differ, and 30 steps of Adam make more of them. On one kind
of machine losses repeat bit for bit."""


def test_thirty_steps_have_the_losses_and_batches_that_they_always_had(tmp_path: Path) -> None:
    """To renew them on purpose: python -m tests.trainer.test_trainer_golden, and say why in the changelog."""
    found = run(tmp_path)
    golden = json.loads(GOLDEN.read_text())
    assert [digest for digest, _ in found] == [digest for digest, _ in golden]
    for step, ((_, ours), (_, theirs)) in enumerate(zip(found, golden, strict=True), 1):
        assert ours == pytest.approx(theirs, rel=TOLERANCE), step


def run(root: Path) -> list[tuple[str, float]]:
    train(corpus(root / "corpus"), config(steps=30, learning_rate=2e-3), 5, root / "run")
    return [(record["batch_digest"][:16], record["loss_nats"]) for record in untimed(root / "run")]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(run(Path(folder)), indent=1) + "\n")
