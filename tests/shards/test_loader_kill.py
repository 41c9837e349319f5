"""Runs killed with SIGKILL and resumed on another topology: their logs, end to end, are that of an unbroken run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from imglish.records import Kind
from imglish.seeds import below, stream
from imglish.shards import open_corpus
from imglish.shards.loader import Loader
from imglish.shards.tombstones import tombstone
from tests.shards.changed_helpers import packed
from tests.shards.corpus_helpers import small_corpus
from tests.shards.pack_helpers import recipe

BATCH: dict[Kind, int] = {"pair": 4, "image": 8, "text": 4}
RUN: dict[str, Any] = {
    "batch": BATCH,
    "seed": 11,
    "lanes": 4,
    "windows": {"pair": 3, "image": 2, "text": 2},
    "schedule": [[9, {"pair": 8, "image": 4}]],
}
TRAIN = """
import json, os, sys
from imglish.shards import open_corpus
from imglish.shards.loader import Loader
if __name__ == "__main__":
    manifest, log, stop, world, options = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    corpus, options = open_corpus(manifest), json.loads(options)
    loaders = [Loader(corpus, rank=rank, world_size=world, **options) for rank in range(world)]
    if os.path.exists(log):
        state = json.loads(open(log).read().splitlines()[-1])["state"]
        for loader in loaders:
            loader.load_state_dict(state)
    with open(log, "a") as file:
        while loaders[0].position < stop:
            shares = [next(loader) for loader in loaders]
            batch = shares[0]
            keys = {kind: [None] * world * len(batch.keys[kind]) for kind in batch.keys}
            for rank, share in enumerate(shares):
                assert share.digest == batch.digest
                for kind in keys:
                    keys[kind][rank::world] = share.keys[kind]
            assert all(loader.state_dict() == loaders[0].state_dict() for loader in loaders)
            file.write(json.dumps({"keys": keys, "digest": batch.digest, "state": loaders[0].state_dict()}) + "\\n")
            file.flush()
            print(batch.position, flush=True)
    for loader in loaders:
        loader.close()
"""
TOPOLOGIES: Sequence[tuple[int, dict[str, Any]]] = (
    (1, {"workers": 0}),
    (4, {"workers": 1}),
    (1, {"workers": 2, "processes": True}),
    (2, {"workers": 3}),
)


class Run:
    """A run in pieces: every piece but the last dies in the middle of whatever it is doing."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.manifest, self.log = folder / "manifest.json", folder / "log.jsonl"
        self.options = dict(RUN)
        self.moments = (below(stream(seed, "kills").bits(20), 6) + 1).tolist()

    @property
    def done(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    @property
    def seen(self) -> list[tuple[dict[Kind, list[str]], str]]:
        return [(line["keys"], line["digest"]) for line in self.done]

    def _command(self, stop: int, world: int, way: dict[str, Any]) -> list[str]:
        options = json.dumps({**self.options, **way})
        return [sys.executable, "-c", TRAIN, str(self.manifest), str(self.log), str(stop), str(world), options]

    def killed(self, world: int, way: dict[str, Any]) -> None:
        """Go on for a random number of steps, then die."""
        last = len(self.done) + self.moments.pop()
        with subprocess.Popen(self._command(10**9, world, way), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while int(process.stdout.readline()) < last:
                pass
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL

    def finished(self, more: int, world: int, way: dict[str, Any]) -> None:
        command = self._command(len(self.done) + more, world, way)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def unbroken(self, first: int, end: int, state: dict[str, Any] | None = None) -> list[tuple[Any, str]]:
        """What one rank without workers sees at these positions."""
        with Loader(open_corpus(str(self.manifest)), workers=0, **self.options) as loader:
            if state is not None:
                loader.load_state_dict(state)
            batches = [next(loader) for _ in range(end - loader.position)]
        return [(dict(batch.keys), batch.digest) for batch in batches if batch.position >= first]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_at_random_steps_sees_what_an_unbroken_one_sees(tmp_path: Path, seed: int) -> None:
    small_corpus(tmp_path, shards=3, pairs=7, images=5)
    run = Run(tmp_path, seed)
    ways = [TOPOLOGIES[(place + 2 * seed) % 4] for place in range(4)]
    for way in ways[:3]:
        run.killed(*way)
    run.finished(8, *ways[3])
    assert run.seen == run.unbroken(0, len(run.seen))


def test_so_does_one_whose_exclusions_grow(tmp_path: Path) -> None:
    small_corpus(tmp_path, shards=3, pairs=7, images=5)
    run = Run(tmp_path, 5)
    file = tmp_path / "exclusions.jsonl"
    file.touch()
    run.options["exclusions"] = str(file)
    for number, way in enumerate(TOPOLOGIES[1:]):
        run.killed(*way)
        position = len(run.done)
        with file.open("a") as lines:
            for row in range(3):
                kind = ("pair", "image", "text")[row]
                line = {"from": position + row, "kind": kind, "shard": number, "row": row + number}
                lines.write(json.dumps(line) + "\n")
    run.finished(12, *TOPOLOGIES[0])
    with_all_lines = run.unbroken(0, len(run.seen))
    assert run.seen == with_all_lines
    run.options["exclusions"] = None
    assert run.seen != run.unbroken(0, len(run.seen))


@pytest.mark.parametrize("way", TOPOLOGIES[1:3], ids=["4 ranks", "processes"])
def test_so_does_one_whose_corpus_loses_samples(tmp_path: Path, way: tuple[int, dict[str, Any]]) -> None:
    packed(tmp_path, recipe())
    run = Run(tmp_path, 9)
    run.killed(*TOPOLOGIES[0])
    position = len(run.done)
    before, state = run.unbroken(0, position), run.done[-1]["state"]
    images = open_corpus(str(run.manifest))["image"]
    gone = {images[0].key, images[4].key}
    tombstone(str(run.manifest), gone)
    run.killed(*way)
    run.finished(6, *TOPOLOGIES[0])
    assert run.seen[:position] == before
    assert run.seen[position:] == run.unbroken(position, len(run.seen), state)
    assert not gone & {key for keys, _ in run.seen[position:] for key in keys["image"]}
