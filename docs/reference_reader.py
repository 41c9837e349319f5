"""Every sample of a corpus, with the standard library only: python docs/reference_reader.py corpus/manifest.json"""
import json
import struct
import sys
from pathlib import Path

FIELDS = {"pair": ("jpg", "txt", "ids", "codes", "views"), "image": ("jpg", "codes", "views"), "text": ("ids",)}
ROW = {"pair": "<16s" + "QII" * 5 + "I", "image": "<16s" + "QII" * 3 + "I", "text": "<QII"}
VALUES = {"jpg": bytes, "txt": lambda data: data.decode().split("\n")}
TABLE = []
for crc in range(256):
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    TABLE.append(crc)


def checked(file, offset, length, crc32c):
    file.seek(offset)
    data, crc = file.read(length), 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    assert crc ^ 0xFFFFFFFF == crc32c, f"{file.name}: bytes {offset} to {offset + length} are damaged"
    return data


def u16(data):
    return struct.unpack(f"<{len(data) // 2}H", data)


def slab_row(base, slab, row):
    width = 2 * slab["views"] * slab["codes_per_view"]
    with open(base / slab["path"], "rb") as file:
        file.seek(slab["rows"] * width + 4 * row)
        return checked(file, row * width, width, *struct.unpack("<I", file.read(4)))


def samples(manifest_path):
    """(split, kind, key, values) of every index row that is no tombstone, repeats included, in manifest order."""
    base, manifest = Path(manifest_path).parent, json.loads(Path(manifest_path).read_bytes())
    slabs = {(slab["shard"], slab["kind"]): slab for slab in manifest["slabs"] if slab["active"]}
    for ordinal, shard in enumerate(manifest["shards"]):
        with open(base / shard["path"], "rb") as file:
            for kind in FIELDS:
                part = shard["sections"][kind]
                index = checked(file, part["index_offset"], part["index_bytes"], part["index_crc32c"])
                for number, (key, *cells, flags) in enumerate(struct.iter_unpack(ROW[kind], index)):
                    if flags & 1:  # a tombstone
                        continue
                    if kind == "text":  # a row is offset, crc32c, flags
                        key, cells = f"{ordinal:06d}/{number}", [key, 1024, *cells]
                    data = {name: checked(file, *cells[3 * i : 3 * i + 3]) for i, name in enumerate(FIELDS[kind])}
                    if (ordinal, kind) in slabs:
                        data["codes"] = slab_row(base, slabs[ordinal, kind], number)
                    read = {name: VALUES.get(name, u16)(found) for name, found in data.items()}
                    yield shard["split"], kind, key if kind == "text" else key.hex(), read


if __name__ == "__main__":
    for split, kind, key, values in samples(sys.argv[1]):
        print(split, kind, key, {field: len(found) for field, found in values.items()})
