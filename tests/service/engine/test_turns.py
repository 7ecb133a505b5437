"""Which rows of several clients are served first."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.engine.turns import in_turn


@given(clients=st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 3), max_size=40), most=st.integers(0, 40))
def test_clients_take_turns_and_their_rows_stay_in_order(clients: list[int], most: int) -> None:
    own = np.array(clients, dtype=np.int64)
    served = np.random.default_rng(0).permutation(len(clients)).astype(np.int64)
    slots = np.argsort(served)
    turn = in_turn(slots, own, served)
    assert sorted(turn.tolist()) == sorted(slots.tolist())
    for client in set(clients):
        assert [slot for slot in turn if own[slot] == client] == [slot for slot in slots if own[slot] == client]
    taken = Counter(own[turn[:most]].tolist())
    for client, count in Counter(clients).items():
        if taken[client] < count:
            assert max(taken.values(), default=0) <= taken[client] + 1


def test_the_client_that_waited_longest_comes_first() -> None:
    clients = np.array([1, 1, 1, 2, 3])
    served = np.array([0, 1, 9, 5, 7])
    assert in_turn(np.argsort(served), clients, served).tolist() == [3, 4, 0, 1, 2]
