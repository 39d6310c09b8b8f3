"""`ainp2p wallet iou`: two parties without a network, then with one."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from ainp2p.cli import exit_codes

from .test_network import home, run, town

__all__ = ["home", "town"]  # fixtures


@pytest.mark.process
def test_two_parties_trade_without_a_committee_and_settle_with_one(
    town: subprocess.Popen[str], capsys: Any
) -> None:
    iou = ("wallet", "iou")
    status, [made], said = run(capsys, *iou, "line", "alice", "bob", "--owe", "1000")
    assert (status, made["mark"]) == (exit_codes.OK, "unbacked IOU"), said
    status, [line], said = run(capsys, *iou, "line", "bob", made["offer"])
    assert (status, line["limit_theirs"], line["limit_ours"]) == (exit_codes.OK, 1000, 0), said
    assert run(capsys, *iou, "line", "alice", line["signed"])[1][0]["line"] == line["line"]
    _, [promised], _ = run(capsys, *iou, "promise", "alice", line["line"], "400")
    _, [held], _ = run(capsys, *iou, "accept", "bob", line["line"], promised["iou"])
    assert (held["gained"], held["balance"], held["mark"]) == (400, 400, "unbacked IOU")
    status, _, said = run(capsys, *iou, "promise", "alice", line["line"], "601")
    assert status != exit_codes.OK
    assert "limit" in said
    status, [settlement], said = run(capsys, *iou, "settle", "alice")
    assert status == exit_codes.OK, said
    status, [taken], said = run(capsys, *iou, "take", "bob", settlement["settlement"])
    assert (status, taken) == (exit_codes.OK, {"settled": 400, "final": True}), said
    assert run(capsys, "wallet", "balance", "bob")[1][0]["available"] == 400
    assert run(capsys, *iou, "list", "bob")[1][0]["balance"] == 0
    assert run(capsys, *iou, "line", "bob", made["offer"][:-2] + "zz")[0] != exit_codes.OK
