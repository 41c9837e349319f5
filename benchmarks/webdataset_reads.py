"""What an unmodified webdataset sees of shards, against what is in them: python webdataset_reads.py SHARD ...

Needs nothing of Imglish, so that any version can be asked in an environment of its own. Prints members and groups as
JSON; an AssertionError names the first shard that reads differently.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tarfile
from pathlib import Path

import webdataset


def read(shard: Path) -> tuple[int, int]:
    """Members and samples seen, when every member but the index was seen byte for byte."""
    with tarfile.open(shard) as tar:
        files = {info.name: tar.extractfile(info) for info in tar if info.name != "__meta__/index"}
        expected = {name: file.read() for name, file in files.items() if file is not None}
    seen: dict[str, bytes] = {}
    samples = 0
    for sample in webdataset.WebDataset(str(shard), shardshuffle=False):
        fields = {name: value for name, value in sample.items() if not name.startswith("__")}
        seen |= {f"{sample['__key__']}.{name}": value for name, value in fields.items()}
        samples += 1
    assert seen == expected, f"{shard}: {len(seen)} members seen, {len(expected)} in the tar"
    return len(seen), samples


if __name__ == "__main__":
    members, groups = zip(*(read(Path(shard)) for shard in sys.argv[1:]), strict=True)
    version = importlib.metadata.version("webdataset")
    print(json.dumps({"webdataset": version, "members": sum(members), "groups": sum(groups)}))
