"""How long a process of a swarm may take to end."""

from __future__ import annotations

from ainp2p.agents import agent, deposit, selling
from ainp2p.swarm.process import ALARM_S, CLOSING_S, WIND_DOWN_S


def test_the_alarm_leaves_an_agent_the_time_that_it_takes_to_close_where_nobody_answers() -> None:
    closing_s = deposit.LEAVE_TIMEOUT_S + selling.CLOSE_TIMEOUT_S + agent.SETTLE_UP_S
    assert closing_s < CLOSING_S == ALARM_S - WIND_DOWN_S
