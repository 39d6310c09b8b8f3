"""The first example of the documentation, over real libp2p."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

import ainp2p
from ainp2p.agents.models.scripted import ScriptedModel


@ainp2p.skill("summarise", price="2/token")
async def summarise(job: Any, text: str) -> AsyncIterator[object]:
    async for token in job.model.stream(f"Summarise: {text}"):
        yield token  # every yield is streamed, metered and paid for


@pytest.mark.process
async def test_the_first_example_runs_as_printed(caplog: pytest.LogCaptureFixture) -> None:
    printed: list[str] = []
    with trio.fail_after(60), caplog.at_level(logging.WARNING, logger="ainp2p"):
        async with (
            ainp2p.Agent("alice", skills=[summarise], model=ScriptedModel()) as alice,
            ainp2p.Agent("bob", bootstrap=[alice.address]) as bob,
        ):
            offers = await bob.find("summarise", max_price="3/token")
            async with bob.hire(offers, text="libp2p is ...", budget=600) as job:
                async for chunk in job:  # bob signs a cumulative receipt as chunks arrive
                    printed.append(str(chunk))
            assert str(job.receipt).startswith("Receipt(12 uain for 6 units, lock ain:")
            assert "total=" in str(await bob.balance())
            assert str(job) == "Job(summarise: done, 6 units, 12 of 600 uain)"
            assert str(offers[0]).startswith("Offer(summarise by alice ain:")
            assert str(job.legs[0]).startswith("Leg(alice ain:")
            while (await alice.balance()).total != 1_000_012:  # noqa: ASYNC110  # the last receipt comes
                await trio.sleep(0.01)
    assert "".join(printed) == "You said: Summarise: libp2p is ..."
    assert [record.message for record in caplog.records] == []
