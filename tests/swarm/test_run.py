"""`ainp2p swarm` whole, with scripted models: real processes, real libp2p, a real ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ainp2p.swarm import events as ev
from ainp2p.swarm.report import from_json

from .swarm_process import SwarmProcess

pytestmark = pytest.mark.process

Start = Callable[..., SwarmProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts swarms, and ends what is left of them."""
    started: list[SwarmProcess] = []

    def make(*arguments: str, **options: str) -> SwarmProcess:
        started.append(SwarmProcess(tmp_path / f"home-{len(started)}", *arguments, **options))
        return started[-1]

    yield make
    for swarm in started:
        swarm.close()


def kept_directories(swarm: SwarmProcess) -> list[Path]:
    return sorted((swarm.home / "run").glob("swarm-*"))


def test_a_swarm_works_for_pay_loses_a_seller_settles_and_reports(start: Start) -> None:
    swarm = start("--ask", "Where was salt dear?")
    assert swarm.end() == 0, [check for check in swarm.board.checks.values() if not check.held]
    board = swarm.board
    assert swarm.bad == [], "every line of --json is an event"
    assert isinstance(swarm.events[-1], ev.SwarmEnded)
    assert board.end is not None
    assert board.end.held
    assert all(check.held for check in board.checks.values())
    # who there was, and who died
    roles = [peer.role for peer in board.peers.values()]
    assert (roles.count("validator"), roles.count("seller"), roles.count("buyer")) == (4, 3, 2)
    assert [board.peers[kill.name].reason for kill in board.kills] == ["killed"]
    assert board.peers["creator"].reason == "finished"
    sessions = {peer.pid for peer in board.peers.values() if peer.pid}
    assert len(sessions) == len([peer for peer in board.peers.values() if peer.pid])
    # what was bought: the answer quotes the document and says where
    assert all(task.state == "completed" for task in board.tasks.values())
    answer = board.tasks["ask"].answer
    assert answer is not None
    assert answer.sources[0].quote == answer.answer
    assert Path(answer.sources[0].path).name == "voyage.md"
    assert answer.paid > 0
    assert board.receipts > 10
    # the money
    assert len(board.supply) == 4
    assert {count.locks for count in board.supply.values()} == {0}
    # what is left: a report, and nothing else
    report = from_json((swarm.report / "report.json").read_bytes())
    assert report.held
    assert (swarm.report / "report.html").read_text("utf-8").endswith("</html>\n")
    assert sorted(path.name for path in swarm.report.iterdir()) == ["report.html", "report.json"]
    assert kept_directories(swarm) == []
    assert swarm.left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_g3_an_interrupt_in_the_middle_leaves_no_process_and_no_half_written_file(
    start: Start, number: int
) -> None:
    swarm = start()
    swarm.until(ev.ReceiptSigned)
    swarm.interrupt(number)
    assert swarm.end(30) == 130
    assert swarm.left() == []
    report = from_json((swarm.report / "report.json").read_bytes())
    assert not report.held
    assert (swarm.report / "report.html").read_text("utf-8").endswith("</html>\n")
    assert list(swarm.report.glob(".*")) == []
    assert "Traceback" not in swarm.errors


def test_g3_an_interrupt_loses_no_acknowledged_payment(start: Start) -> None:
    swarm = start()
    swarm.until(ev.ReceiptSigned)
    swarm.until(ev.Answered)
    swarm.interrupt()
    swarm.end(30)
    if kept_directories(swarm):  # a seller could not settle: its receipts are kept, and the view says so
        assert any("receipts are kept" in note.text for note in swarm.board.notes)
        return
    board = swarm.board
    for (_, seller), _paid in board.payments.items():
        held = board.peers[seller].balance
        reopened = any(wallet.name == seller for wallet in board.reopened)
        assert reopened or (held is not None and held.owed == 0 and "closed" in board.peers[seller].stages)


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param((ev.SwarmStarted, None), id="before anybody has started"),
        pytest.param((ev.NetworkFounded, None), id="while the creator works"),
        pytest.param((ev.PeerUp, "buyer"), id="while models load"),
        pytest.param((ev.SellerKilled, None), id="right after the kill"),
        pytest.param((ev.SupplyChecked, None), id="during the count"),
    ],
)
def test_g3_an_interrupt_at_any_moment_ends_everybody_soon(
    start: Start, moment: tuple[type[ev.AnyEvent], str | None]
) -> None:
    kind, role = moment
    swarm = start()
    swarm.until(kind, lambda event: role is None or getattr(event, "role", None) == role)
    swarm.interrupt()
    assert swarm.end(30) in (130, 0, 1)  # 0 or 1: it was over before it heard of it
    assert swarm.left() == []
    assert kept_directories(swarm) == [] or any("kept" in note.text for note in swarm.board.notes)


def test_whoever_kills_the_view_ends_the_swarm(start: Start) -> None:
    swarm = start()
    swarm.until(ev.ReceiptSigned)
    swarm.process.kill()
    assert swarm.end() == -signal.SIGKILL
    assert swarm.left() == []


def test_kept_processes_go_on_without_the_view_until_they_are_told_to_stop(start: Start) -> None:
    swarm = start("--keep", "--sellers", "2")
    assert swarm.end() == 0, [check for check in swarm.board.checks.values() if not check.held]
    going = {name: pid for name, pid in swarm.pids().items() if name not in ("creator", "auditor")}
    assert len(going) == 8
    for pid in going.values():
        os.kill(pid, 0)
    (directory,) = kept_directories(swarm)
    assert (directory / "genesis").is_file()
    assert any("kill" in note.text and str(directory) in note.text for note in swarm.board.notes)
    for pid in going.values():
        os.kill(pid, signal.SIGTERM)
    assert swarm.left() == []


def test_with_one_seller_of_text_nobody_is_killed_and_all_holds(start: Start) -> None:
    swarm = start("--sellers", "2", "--buyers", "1", "--parts", "2")
    assert swarm.end() == 0
    assert swarm.board.kills == []
    assert sum(peer.role == "buyer" for peer in swarm.board.peers.values()) == 1
    assert set(swarm.board.tasks) == {"part-1", "part-3", "rest-rosa", "ask"}


def test_a_title_that_repeats_itself_ends_and_is_billed_only_once(start: Start) -> None:
    text = '{"answers": {"": "' + "one two three four five six seven eight " * 6 + '"}}'
    swarm = start("--parts", "2", "--sellers", "2", model=f"scripted:{text}")
    assert swarm.end() == 0
    finishes = {
        task.answer.finish for task in swarm.board.tasks.values() if task.answer and task.skill == "summarise"
    }
    assert finishes == {"loop"}


def test_a_purse_that_is_too_small_fails_tasks_and_the_run_but_ends(start: Start) -> None:
    swarm = start("--budget", "1000", "--sellers", "2", "--buyers", "1")
    assert swarm.end() in (0, 1)
    assert not any("Traceback" in line.decode() for line in swarm.bad)
    supply = list(swarm.board.supply.values())
    assert supply
    assert all(c.balances + c.credits + c.locks + c.burnt == c.minted == 1000 for c in supply)


# --- what is refused before anything is started -----------------------------------------------------


def swarm_command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ainp2p", "swarm", *arguments],
        env={**os.environ, "AINP2P_HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        pytest.param(["photo.png"], 2, "photo.png", id="a picture"),
        pytest.param(["missing.md"], 2, "no such file or folder", id="a file that is not there"),
        pytest.param(["empty.md"], 2, "empty", id="an empty file"),
        pytest.param(["words.md"], 2, "no sentences", id="a file without sentences"),
        pytest.param(["good.md", "--sellers", "1"], 2, "--sellers", id="one seller"),
        pytest.param(["good.md", "--buyers", "99"], 2, "--buyers", id="too many buyers"),
        pytest.param(["good.md", "--budget", "1"], 2, "--budget", id="no budget"),
        pytest.param(["good.md", "--parts", "0"], 2, "--parts", id="no parts"),
        pytest.param(["good.md", "--limit", "1"], 2, "--limit", id="no time"),
        pytest.param(["good.md", "--seed", "-1"], 2, "--seed", id="a negative seed"),
        pytest.param(["good.md", "--report", "good.md"], 2, "--report", id="a report where a file is"),
        pytest.param(["good.md", "--model", "no-such-model"], 1, "no model", id="an unknown model"),
        pytest.param(["good.md"], 1, "ainp2p model fetch", id="a model that was not fetched"),
        pytest.param([], 2, "PATH", id="no file at all"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(
    tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty.md").write_text("")
    (tmp_path / "words.md").write_text("One\n")
    (tmp_path / "good.md").write_text("# Salt\n\nSalt was dear in the north. It was cheap in the south.\n")
    scripted = [] if "--model" in arguments or arguments == ["good.md"] else ["--model", "scripted"]
    done = swarm_command(tmp_path, *arguments, *scripted)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("run/swarm-*")) == []


def test_help_has_examples_and_says_what_each_option_does(tmp_path: Path) -> None:
    done = swarm_command(tmp_path, "--help")
    assert done.returncode == 0
    for option in ("--ask", "--sellers", "--buyers", "--model", "--seed", "--budget", "--json", "--report"):
        assert option in done.stdout
    assert "--keep" in done.stdout
    assert "examples:" in done.stdout
