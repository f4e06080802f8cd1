"""The order in which requests are answered."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import EngineRefused
from quietmind.serve.turns import Ticket, Turns


def test_a_full_line_takes_nobody() -> None:
    turns = Turns(width=1, most_waiting=1)
    first, _ = turns.join(), turns.join()
    with pytest.raises(EngineRefused, match="1 requests are waiting"):
        turns.join()
    turns.leave(first)
    turns.join()


@given(st.integers(1, 3), st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=40))
def test_places_follow_the_order_of_arrival(width: int, steps: list[tuple[bool, int]]) -> None:
    turns, line = Turns(width), list[Ticket]()
    for arrives, which in steps:
        if arrives:
            line.append(turns.join())
        elif line:
            turns.leave(line.pop(which % len(line)))
        assert [ticket.place for ticket in line] == [max(0, number - width + 1) for number in range(len(line))]


def test_those_behind_are_woken_when_somebody_leaves() -> None:
    async def run() -> list[str]:
        turns, seen = Turns(), list[str]()

        async def client(name: str) -> None:
            with turns.join() as ticket:
                while ticket.place:
                    await ticket.wait(60)
                seen.append(name)
                await asyncio.sleep(0)

        await asyncio.wait_for(asyncio.gather(*(client(name) for name in "abcde")), 10)
        return seen

    assert asyncio.run(run()) == list("abcde")


def test_waiting_ends_after_its_patience() -> None:
    async def run() -> int:
        turns = Turns()
        turns.join()
        ticket = turns.join()
        await asyncio.wait_for(ticket.wait(0.01), 10)
        return ticket.place

    assert asyncio.run(run()) == 1
