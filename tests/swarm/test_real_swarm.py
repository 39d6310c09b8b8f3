"""A swarm with SmolLM2 and MiniLM themselves; `ainp2p model fetch` brings their weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from ainp2p.home import Home
from ainp2p.swarm.skills import TITLE_TOKENS_MAX, TONES, TOPICS

from .swarm_process import SwarmProcess

pytestmark = [pytest.mark.model, pytest.mark.process]

LIMIT_S = 240.0


def test_real_models_work_for_pay_and_one_of_their_sellers_dies(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "models").symlink_to(Home.from_environment().models(), target_is_directory=True)
    swarm = SwarmProcess(home, "--ask", "Where was salt dear?", model="smollm2-135m")
    try:
        assert swarm.end(LIMIT_S) == 0, [check for check in swarm.board.checks.values() if not check.held]
        board = swarm.board
        assert len(board.kills) == len(board.takeovers[:1]) == 1
        answer = board.tasks["ask"].answer
        assert answer is not None
        assert answer.answer == "Salt was dear in the north and cheap in the south."
        for task in board.tasks.values():
            assert task.answer is not None
            if task.skill == "summarise":
                title, _, labels = task.answer.answer.removesuffix(")").rpartition(" (")
                topic, tone = labels.split(", ")
                assert topic in TOPICS
                assert tone in TONES
                assert 0 < len(title.split()) <= TITLE_TOKENS_MAX
        assert swarm.left() == []
    finally:
        swarm.close()
