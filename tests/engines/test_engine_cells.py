"""Tables cut into cells by bucket, before an engine shuffles them."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from imglish.engines.seam import cut


@given(st.lists(st.integers(0, 4), max_size=12))
def test_every_row_is_in_a_cell_of_its_bucket_and_a_table_without_rows_has_none(buckets: list[int]) -> None:
    rows = pa.table({"bucket": pa.array(buckets, pa.int32()), "row": pa.array(range(len(buckets)), pa.int64())})
    cells = list(cut({}, lambda piece: rows, "test"))
    found = {bucket: pa.ipc.open_stream(data).read_all().column("row").to_pylist() for bucket, data in cells}
    assert found == {b: [n for n, other in enumerate(buckets) if other == b] for b in set(buckets)}
