import threading

import pytest

from imglish.errors import ShardError
from imglish.shards.prefetch import AHEAD, Prefetch


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_number_that_failed_is_worked_on_again_when_asked_again(workers: int) -> None:
    tries: list[int] = []

    def work(number: int) -> int:
        tries.append(number)
        if number == 2 and tries.count(2) == 1:
            raise ShardError("shard 0: not reachable")
        return number * number

    ahead = Prefetch(work, workers)
    assert [ahead.get(number) for number in (0, 1)] == [0, 1]
    with pytest.raises(ShardError, match="not reachable"):
        ahead.get(2)
    assert [ahead.get(number) for number in (2, 3, 4)] == [4, 9, 16]
    ahead.close()


def test_only_a_few_numbers_are_worked_on_ahead() -> None:
    started: list[int] = []
    ahead = Prefetch(started.append, workers=2)
    for number in range(5):
        ahead.get(number)
    ahead.close()
    assert max(started) <= 4 + 2 * AHEAD


def test_results_come_in_order_whoever_finishes_first() -> None:
    later = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert later.wait(10)
        else:
            later.set()
        return number

    ahead = Prefetch(work, workers=2)
    assert [ahead.get(number) for number in range(4)] == [0, 1, 2, 3]
    ahead.close()
