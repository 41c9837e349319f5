from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imglish.errors import TrainError
from imglish.trainer.checkpoint import Checkpoints, latest, load, open_checkpoint, save
from imglish.trainer.parallel import Place


def tensors(value: float = 0.0) -> dict[str, Any]:
    return {"model": {"weight": torch.full((3, 2), value)}, "optimizer": {"weight": {"step": torch.tensor(value)}}}


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 7, tensors(2.5), {"note": {"deep": [1, "x"]}})
    found, fresh = latest(tmp_path), tensors()
    assert found is not None and (found.step, found.facts["note"]) == (7, {"deep": [1, "x"]})
    load(found, fresh)
    assert torch.equal(fresh["model"]["weight"], torch.full((3, 2), 2.5))
    assert fresh["optimizer"]["weight"]["step"] == 2.5


@pytest.mark.parametrize("asynchronous", [False, True])
def test_no_rank_goes_on_before_the_leader_has_sealed(tmp_path: Path, asynchronous: bool) -> None:
    seen: list[list[str]] = []

    class Watched(Place):
        def wait(self) -> None:
            seen.append([path.name for path in tmp_path.iterdir()])

    checkpoints = Checkpoints(tmp_path, Watched(0, 1, torch.device("cpu")), asynchronous=asynchronous)
    checkpoints.save(1, tensors(1), {})
    checkpoints.finish()
    assert seen == [[".tmp-step-00000001"], ["step-00000001"]]


def test_the_newest_two_stay(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save(tmp_path, step, tensors(step), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]


def test_a_folder_that_was_never_finished_is_not_seen(tmp_path: Path) -> None:
    done = save(tmp_path, 1, tensors(1), {})
    done.rename(tmp_path / ".tmp-step-00000002")
    assert latest(tmp_path) is None
    save(tmp_path, 2, tensors(2), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([".metadata", "__0_0.distcp", "digests.json", "facts.json"]),
    share=st.floats(0, 1, exclude_max=True),
    damage=st.sampled_from(["cut", "flip", "remove"]),
)
def test_a_checkpoint_torn_at_any_byte_is_never_taken_for_a_good_one(
    tmp_path_factory: pytest.TempPathFactory, name: str, share: float, damage: str
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    save(folder, 1, tensors(1), {})
    torn = save(folder, 2, tensors(2), {})
    content = (torn / name).read_bytes()
    place = int(share * len(content))
    if damage == "remove":
        (torn / name).unlink()
    else:
        rest = b"" if damage == "cut" else bytes([content[place] ^ 1]) + content[place + 1 :]
        (torn / name).write_bytes(content[:place] + rest)
    with pytest.raises(TrainError, match="is torn"):
        open_checkpoint(torn)
    found = latest(folder)
    assert found is not None and found.step == 1


def test_nothing_of_a_torn_checkpoint_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torn = save(tmp_path, 1, tensors(1), {})
    (torn / ".metadata").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(TrainError, match="is torn"):
        latest(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1, tensors(1), {})
    found = latest(tmp_path)
    assert found is not None
    with pytest.raises(TrainError, match="does not fit the model"):
        load(found, {"model": {"weight": torch.zeros(4, 2)}})
    with pytest.raises(TrainError, match="does not fit the model"):
        load(found, {"model": {"other": torch.zeros(3, 2)}})
