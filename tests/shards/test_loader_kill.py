import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imglish.shards.loader import Loader
from imglish.shards.reader import open_corpus
from tests.shards.corpus_helpers import small_corpus

TRAIN = """
import json, os, sys
from imglish.shards.loader import Loader
from imglish.shards.reader import open_corpus
manifest, log, workers, rank, world, stop = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
loader = Loader(open_corpus(manifest), batch={"pair": 4, "image": 6, "text": 2}, seed=11, rank=rank, world_size=world,
                workers=workers, windows={"pair": 3, "image": 2, "text": 2}, lanes=4)
if os.path.exists(log):
    loader.load_state_dict(json.loads(open(log).read().splitlines()[-1])["state"])
with open(log, "a") as file:
    for batch in loader:
        if batch.position == stop:
            break
        line = {"keys": batch.keys, "digest": batch.digest, "state": loader.state_dict()}
        file.write(json.dumps(line) + "\\n")
        file.flush()
        print(batch.position, flush=True)
"""


def command(manifest: Path, log: Path, workers: int, stop: int, rank: int = 0, world: int = 1) -> list[str]:
    return [sys.executable, "-c", TRAIN, str(manifest), str(log), *map(str, (workers, rank, world, stop))]


def run_and_kill(arguments: list[str], position: int) -> None:
    """Start a run and kill it as soon as it has logged a position; it dies at whatever it does then."""
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < position:
            pass
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def logged(log: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [{"keys": line["keys"], "digest": line["digest"]} for line in lines]


@pytest.mark.parametrize("kills", [(3, 17)])
def test_a_run_killed_and_resumed_with_other_workers_sees_the_same_samples(
    tmp_path: Path, kills: tuple[int, ...]
) -> None:
    small_corpus(tmp_path, shards=3, pairs=7, images=5)
    manifest, log = tmp_path / "manifest.json", tmp_path / "log.jsonl"
    for number, position in enumerate(kills):
        run_and_kill(command(manifest, log, workers=(0, 3)[number % 2], stop=10**9), position)
    done = len(logged(log))
    stop = done + 10
    subprocess.run(command(manifest, log, workers=2, stop=stop), check=True, stdout=subprocess.DEVNULL)
    options = {"windows": {"pair": 3, "image": 2, "text": 2}, "lanes": 4}
    with Loader(open_corpus(str(manifest)), {"pair": 4, "image": 6, "text": 2}, seed=11, workers=0, **options) as whole:
        expected = [next(whole) for _ in range(stop)]
    assert logged(log) == [{"keys": batch.keys, "digest": batch.digest} for batch in expected]


def test_a_killed_run_resumes_on_another_number_of_ranks(tmp_path: Path) -> None:
    small_corpus(tmp_path, shards=3, pairs=7, images=5)
    manifest, log = tmp_path / "manifest.json", tmp_path / "log.jsonl"
    run_and_kill(command(manifest, log, workers=1, stop=10**9), 4)
    last = log.read_text().splitlines()[-1]
    done = len(logged(log))
    shares = []
    for rank in range(2):
        part = tmp_path / f"rank{rank}.jsonl"
        part.write_text(last + "\n")
        subprocess.run(command(manifest, part, 1, done + 5, rank, 2), check=True, stdout=subprocess.DEVNULL)
        shares.append(logged(part)[1:])
    whole = tmp_path / "whole.jsonl"
    subprocess.run(command(manifest, whole, 0, done + 5), check=True, stdout=subprocess.DEVNULL)
    for position, expected in enumerate(logged(whole)[done:]):
        for rank in range(2):
            assert shares[rank][position]["digest"] == expected["digest"]
            for kind, keys in expected["keys"].items():  # type: ignore[attr-defined]
                assert shares[rank][position]["keys"][kind] == keys[rank::2]  # type: ignore[index]
