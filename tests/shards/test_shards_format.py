"""Codecs of the shard format: what is encoded comes back, and headers are those of tarfile."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imglish.records import KINDS, Kind
from imglish.shards import format as fmt
from imglish.shards.slabs import PICTURED
from imglish.shards.text import pack_blocks, unpack_document

u16 = st.integers(0, 65_535)
captions = st.lists(st.text(st.characters(codec="utf-8"), max_size=40).filter(lambda text: text.split()), max_size=8)


@given(st.from_regex(r"[a-z0-9_/.]{1,100}", fullmatch=True), st.integers(0, 8**11 - 1))
def test_headers_are_byte_for_byte_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert fmt.header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(("name", "size"), [("a" * 101, 1), ("a", -1), ("a", 8**11)])
def test_a_member_that_ustar_cannot_describe_is_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match="ustar"):
        fmt.header(name, size)


@given(captions)
def test_captions_come_back_folded_one_a_line(texts: list[str]) -> None:
    assert fmt.decode_captions(fmt.encode_captions(texts)) == [" ".join(text.split()) for text in texts]


def test_no_line_break_of_any_script_survives_folding() -> None:
    breaks = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\t\u3000 "
    assert fmt.fold(f"{breaks}a{breaks}b{breaks}") == "a b"
    assert len(fmt.fold(f"a{breaks}b").splitlines()) == 1


@pytest.mark.parametrize("blank", ["", " ", "\u3000\n"])
def test_a_blank_caption_is_refused(blank: str) -> None:
    with pytest.raises(ValueError, match="blank"):
        fmt.encode_captions(["a", blank])


@given(st.lists(u16, max_size=50))
def test_u16_arrays_come_back(values: list[int]) -> None:
    array = np.array(values, dtype=np.uint16)
    data = fmt.encode_u16(array)
    assert data == b"".join(value.to_bytes(2, "little") for value in values)
    assert (fmt.decode_u16(data) == array).all()


@given(st.lists(st.lists(st.integers(1, 65_535), max_size=9), max_size=9))
def test_captions_ids_are_split_where_each_begins(bodies: list[list[int]]) -> None:
    ids = [np.array([fmt.BOS, *body], dtype=np.uint16) for body in bodies]
    whole = np.concatenate([np.zeros(0, np.uint16), *ids])
    assert [part.tolist() for part in fmt.split_captions(whole)] == [part.tolist() for part in ids]


@given(st.sampled_from(KINDS), st.data())
def test_index_rows_come_back(kind: Kind, data: st.DataObject) -> None:
    dtype = fmt.INDEX_ROW[kind]
    raw = data.draw(st.binary(min_size=0, max_size=5 * dtype.itemsize))
    whole = raw[: len(raw) // dtype.itemsize * dtype.itemsize]
    rows = fmt.decode_rows(kind, whole)
    assert rows.tobytes() == whole
    if kind != "text" and len(rows):
        first = rows[0]
        assert bytes(first["key"]) == whole[:16]
        assert int(first["jpg"]["offset"]) == int.from_bytes(whole[16:24], "little")
        assert int(first["jpg"]["length"]) == int.from_bytes(whole[24:28], "little")
        assert int(first["flags"]) == int.from_bytes(whole[dtype.itemsize - 4 : dtype.itemsize], "little")


def test_row_widths_are_those_of_the_document() -> None:
    widths = {kind: fmt.INDEX_ROW[kind].itemsize for kind in KINDS}
    assert widths == {"pair": 100, "image": 68, "text": 16}
    assert fmt.INDEX_HEADER.itemsize == 32


@given(st.lists(st.lists(u16, max_size=1500), max_size=8))
def test_documents_come_back_from_their_spans_and_the_rest_is_padding(documents: list[list[int]]) -> None:
    arrays = [np.array(document, dtype=np.uint16) for document in documents]
    blocks, starts = pack_blocks(arrays)
    total = sum(map(len, documents))
    assert blocks.shape == (-(-total // 512), 512)
    for document, start in zip(arrays, starts, strict=True):
        assert (unpack_document(blocks, int(start), len(document)) == document).all()
    assert (blocks.reshape(-1)[total:] == fmt.PAD).all()


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["p/00.jpg", "t000000.ids", "__meta__/index", "x" * 100]), st.integers(0, 8**11 - 1))
    )
)
def test_many_headers_at_once_are_those_made_one_by_one(members: list[tuple[str, int]]) -> None:
    names = np.array([name for name, _ in members], dtype="S100")
    made = fmt.headers(names, np.array([size for _, size in members], dtype=np.int64))
    assert made.tobytes() == b"".join(fmt.header(name, size) for name, size in members)


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=5))
def test_many_names_at_once_are_those_made_one_by_one(keys: list[bytes]) -> None:
    for kind in PICTURED:
        rows = np.zeros(len(keys), dtype=fmt.INDEX_ROW[kind])
        rows["key"] = [np.void(key) for key in keys]
        found = fmt.member_names(kind, fmt.hex_keys(rows))
        assert found.tolist() == [fmt.member_name(kind, k.hex(), f).encode() for k in keys for f in fmt.FIELDS[kind]]
