"""`ainp2p sim`: models run, swept, run again, compared and shown from the shell, in worlds of their own."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from ainp2p.cli import exit_codes, main, sim_faults
from ainp2p.cli import sim as cli_sim
from ainp2p.simulation import running
from ainp2p.simulation.results.results import Result
from ainp2p.simulation.results.sweeping import load_sweep

MODEL = '''
from __future__ import annotations
from typing import Literal

async def model(
    world, *, agents: int = 3, minutes: float = 0.1, style: Literal["calm", "wild"] = "calm",
    cap: int | None = None, loud: bool = False,
) -> None:
    """Draws numbers, and waits."""
    rng = world.rng("draws")
    for _ in range(agents):
        world.measure("drawn", rng.random())
    if style == "wild":
        raise ArithmeticError(f"too wild, cap {cap}, {'loud' if loud else 'quiet'}")
    await world.run_for(60 * minutes)
'''


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "market.py").write_text(MODEL)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *words: str, status: int = exit_codes.OK) -> str:
    """What a command prints."""
    assert main(["sim", *words]) == status
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *words: str, status: int = exit_codes.OK) -> Any:
    return json.loads(told(capsys, *words, "--json", status=status))


def refused(capsys: pytest.CaptureFixture[str], *words: str, status: int = exit_codes.USAGE) -> str:
    """What a command says on standard error when it refuses."""
    assert main(["sim", *words]) == status
    return capsys.readouterr().err


# --- run ------------------------------------------------------------------------------------------


def test_a_run_twice_is_the_same_run(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (told(capsys, "run", "market.py", "--seed", "7", "--agents", "5", "--json") for _ in "ab")
    assert one == two
    said = json.loads(one)
    assert (said["seed"], said["model"]) == (7, "market.py")
    assert said["parameters"] == {"agents": 5, "minutes": 0.1, "style": "calm", "cap": None, "loud": False}
    assert len(said["hash"]) == 32
    assert 0 <= said["metrics"]["drawn"] <= 1
    assert said["duration_s"] == 6.0


def test_another_seed_is_another_run(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [as_json(capsys, "run", "market.py", "--seed", seed) for seed in "78"]
    assert runs[0]["hash"] != runs[1]["hash"]


def test_options_may_stand_before_the_file_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert as_json(capsys, "run", "--seed", "7", "market.py")["seed"] == 7
    assert as_json(capsys, "run", "--seed", "7", "market.py", "--seed", "8")["seed"] == 8


def test_people_get_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, "run", "market.py", "--seed", "7").splitlines()
    assert lines[1].split() == ["seed", "7"]
    assert any(line.startswith("fill_rate") for line in lines)


def test_the_help_of_a_file_lists_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    shown = told(capsys, "run", "market.py", "--help")
    assert "Draws numbers, and waits." in shown
    assert "--agents INT" in shown
    assert "parameter of the model (0.1)" in shown
    assert "calm|wild" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--agents", "many"], "'many' is no int", id="no integer"),
        pytest.param(["--style", "mild"], "'mild' is none of calm, wild", id="no choice"),
        pytest.param(["--loud", "perhaps"], "'perhaps' is no true or false", id="no truth"),
        pytest.param(["--cap", "some"], "'some' is no int", id="no integer and not none"),
        pytest.param(["--agent", "3"], "unrecognized arguments: --agent", id="no parameter"),
        pytest.param(["--seed", "x"], "invalid int value", id="no seed"),
        pytest.param(["--signed", "rsa"], "invalid choice", id="no way to sign"),
    ],
)
def test_a_wrong_option_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(capsys, "run", "market.py", *words)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "defines no model", id="no model"),
        pytest.param("async def model(world, *, seed: int = 3): ...", "called 'seed'", id="a name of ours"),
        pytest.param("async def model(world, *, out: int = 3): ...", "called 'out'", id="a sweep's option"),
        pytest.param("async def model(world, *, n: int): ...", "needs a value", id="a value is missing"),
        pytest.param("async def model(): ...", "takes no world", id="no world"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    text: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "other.py").write_text(text)
    assert said in refused(capsys, "run", "other.py")


def test_a_file_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no model can be read from nowhere.py" in refused(capsys, "run", "nowhere.py")


def test_none_and_truths_are_values(capsys: pytest.CaptureFixture[str]) -> None:
    said = as_json(capsys, "run", "market.py", "--cap", "none", "--loud", "yes")["parameters"]
    assert (said["cap"], said["loud"]) == (None, True)


def test_a_model_that_fails_fails_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("run", "market.py", "--style", "wild", "--cap", "9", "--loud", "true")
    assert "too wild, cap 9, loud" in refused(capsys, *words, status=exit_codes.FAILED)


VAIN = """
import trio

async def model(world, *, n: int = 1):
    "Wait for what never comes, beside a committee that never rests."
    await world.spawn("alice").ready()
    await trio.Event().wait()
"""


def test_a_run_that_is_not_over_in_time_fails_and_tells_where_everything_waits(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "vain.py").write_text(VAIN)
    said = refused(capsys, "run", "vain.py", "--within", "10m", status=exit_codes.FAILED)
    assert "not over after 600 virtual seconds" in said
    assert "in model: await trio.Event().wait()" in said
    assert "task validator0, life 1; validator1, life 1; validator2, life 1; validator3, life 1\n" in said
    assert "site-packages/trio" not in said
    told = as_json(capsys, "run", "vain.py", "--within", "10m", "--faults", "5+1 crash alice", status=1)
    assert told["failed"].startswith("Overdue: not over after 600 virtual seconds")
    assert "--within=600s" in told["again"]
    assert "some time" in refused(capsys, "run", "vain.py", "--within", "0s", status=exit_codes.USAGE)
    assert "no duration" in refused(capsys, "run", "vain.py", "--within", "soon", status=exit_codes.USAGE)


def test_the_command_that_does_it_again_says_even_long_times_as_they_are_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = as_json(capsys, "replay", "market.py", "--style", "wild", "--within", "14d", status=1)
    assert "--within=1209600s" in told["again"]
    assert main(shlex.split(told["again"])[1:]) == exit_codes.FAILED


def test_a_sweep_of_runs_that_all_fail_is_a_table_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "vain.py").write_text(VAIN)
    sweep = ("sim", "sweep", "vain.py", "--seeds", "1-2", "--within", "10m", "--processes", "1")
    assert main([*sweep, "--keep-failures", "--out", "runs"]) == exit_codes.FAILED
    captured = capsys.readouterr()
    assert captured.out.split() == ["runs", "2"]
    assert "2 runs, 2 failed" in captured.err


# --- saved ----------------------------------------------------------------------------------------


def saved(capsys: pytest.CaptureFixture[str], directory: str, *words: str) -> Result:
    told(capsys, "run", "market.py", *words, "--report", directory)
    return Result.load(directory)


def test_a_report_is_a_page_and_the_result(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = saved(capsys, "out", "--seed", "7", "--format", "parquet")
    assert (result.seed, result.model) == (7, "market.py")
    assert result.hash in (here / "out" / "report.html").read_text()
    assert (here / "out" / "trades.parquet").is_file()


def test_a_format_that_cannot_be_written_is_refused_before_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setattr(running, "run", lambda *_, **__: pytest.fail("it ran"))
    assert main(["sim", "run", "market.py", "--report", "out", "--format", "parquet"]) == exit_codes.USAGE
    assert "pip install 'ainp2p[frames]'" in capsys.readouterr().err


def test_the_same_run_may_be_saved_where_it_is_saved(capsys: pytest.CaptureFixture[str]) -> None:
    one = saved(capsys, "out", "--seed", "7")
    assert saved(capsys, "out", "--seed", "7") == one


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--seed", "8"], "its seed differ", id="another seed"),
        pytest.param(["--seed", "7", "--agents", "4"], "its parameters differ", id="other parameters"),
        pytest.param(["--seed", "7", "--signed", "keyed"], "its signed differ", id="other signatures"),
    ],
)
def test_another_run_is_not_overwritten(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = saved(capsys, "out", "--seed", "7")
    assert said in refused(capsys, "run", "market.py", *words, "--report", "out")
    assert Result.load("out") == one


def test_mutant_without_the_look_before_the_run_it_is_refused_after_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = saved(capsys, "out", "--seed", "7")
    monkeypatch.setattr(cli_sim, "_check_target", lambda *words: None)
    assert "seed: 7 / 8" in refused(capsys, "run", "market.py", "--seed", "8", "--report", "out")
    assert Result.load("out") == one


def test_something_else_is_not_overwritten_nor_is_anything_run_for_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "out").mkdir()
    (here / "out" / "thesis.tex").write_text("precious")
    words = ("run", "market.py", "--style", "wild", "--report", "out")  # it would fail if it was run
    assert "not overwritten" in refused(capsys, *words)
    assert [path.name for path in (here / "out").iterdir()] == ["thesis.tex"]


def test_where_nothing_can_be_saved_nothing_is_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "loud.py").write_text("async def model(world):\n    print('it ran')\n")
    (here / "file").write_text("mine")
    assert main(["sim", "run", "loud.py", "--report", "file/out"]) == exit_codes.USAGE
    said = capsys.readouterr()
    assert "file/out cannot be written" in said.err
    assert "it ran" not in said.out


def test_a_run_that_became_another_is_found_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = saved(capsys, "out", "--seed", "7")
    (here / "market.py").write_text(MODEL.replace('rng("draws")', 'rng("other")'))
    assert "the code changed" in refused(capsys, "run", "market.py", "--seed", "7", "--report", "out")
    assert Result.load("out") == one


def test_replay_tells_whether_the_same_happened(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = saved(capsys, "out", "--seed", "7", "--signed", "keyed")
    assert as_json(capsys, "replay", "out") == {"same": True, "seed": 7, "hash": one.hash, "again": one.hash}
    (here / "other.py").write_text(MODEL.replace("60 * minutes", "61 * minutes"))
    text = told(capsys, "replay", "out", "--file", "other.py", status=exit_codes.FAILED)
    assert text.startswith("not the same")
    assert "duration_s: 6.0 / 6.1" in text


def test_a_strategy_cannot_be_replayed_from_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    result = Result(1, {"bidding": "market:undercut"}, "", 1.0, model="market.py")
    result.save("out")
    assert "was the function market:undercut" in refused(capsys, "replay", "out")


# --- faults -----------------------------------------------------------------------------------------

FRAGILE = '''
from __future__ import annotations
import trio
from ainp2p.protocol.network import Network

async def model(world, *, bells: int = 3, bold: bool = False) -> None:
    """Two processes; one rings the other's bell every second, and does not bear silence."""
    where = []

    async def hears(network: Network) -> None:
        async def handle(call):
            return b"dong"
        network.serve("/bell/1", handle)
        where.extend(network.addresses)
        await trio.sleep_forever()

    alice = await world.process("alice", hears).ready()

    async def rings(network: Network) -> None:
        network.add_addresses(alice.peer, where)
        for _ in range(bells):
            await network.request(alice.peer, "/bell/1", b"ding", timeout_s=2)
            await trio.sleep(1)

    world.process("bob", rings)
    await world.run_for(bells + 20)
'''


def test_faults_that_hurt_nobody_change_nothing_but_what_happens(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bells.py").write_text(FRAGILE)
    calm = as_json(capsys, "run", "bells.py")
    harmless = as_json(capsys, "run", "bells.py", "--faults", "1+0.5 weather latency=0.01")
    assert calm["hash"] != harmless["hash"]
    again = as_json(capsys, "replay", "bells.py", "--faults", "1+0.5 weather latency=0.01")
    assert again == {
        "failed": None,
        "seed": 0,
        "faults": "1+0.5 weather latency=0.01",
        "hash": harmless["hash"],
    }


FAULTS = "0.5+1 weather latency=0.02; 2+9 partition alice/bob; 15+1 skew bob ms=5; 16+1 pause alice"


def test_a_failing_run_is_shrunk_and_replayed_by_the_command_that_it_tells(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bells.py").write_text(FRAGILE)
    words = ("run", "bells.py", "--seed", "7", "--bells", "6", "--bold", "true", "--faults", FAULTS)
    found = as_json(capsys, *words, status=exit_codes.FAILED)
    assert "TimedOut" in found["failed"] or "Broken" in found["failed"], found
    (kept,) = found["faults"].split("; ")
    assert "partition alice/bob" in kept
    command = shlex.split(found["again"])
    assert command[:4] == ["ainp2p", "sim", "replay", "bells.py"]
    assert command[-2:] == ["--bells=6", "--bold=true"]
    again = as_json(capsys, *command[2:], status=exit_codes.FAILED)
    assert again == found
    text = told(capsys, *command[2:], status=exit_codes.FAILED)
    assert text.startswith(f"seed 7, at {found['at_s']:.3f} s virtual: {found['failed']}")
    assert f"  {kept}" in text
    assert "last events:" in text
    assert text.rstrip().endswith(found["again"])


def test_mutant_a_replay_that_forgets_its_faults_does_not_fail(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "bells.py").write_text(FRAGILE)
    monkeypatch.setattr(sim_faults, "faults_of", lambda text: "")
    assert as_json(capsys, "replay", "bells.py", "--bells", "6", "--faults", FAULTS)["failed"] is None


def test_faults_are_read_from_a_file_or_drawn(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "bells.py").write_text(FRAGILE)
    (here / "faults").write_text("# a storm\n2+9 partition alice/bob\n")
    said = as_json(capsys, "replay", "bells.py", "--bells=6", "--faults", "@faults", status=exit_codes.FAILED)
    assert said["faults"] == "2+9 partition alice/bob"
    assert main(["sim", "replay", "bells.py", "--seed", "3", "--faults", "drawn", "--json"]) in (0, 1)
    drawn = json.loads(capsys.readouterr().out)
    assert drawn["faults"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("run", "market.py", "--faults", "soon crash alice"), "is no fault"),
        (("run", "market.py", "--faults", "@none"), "none cannot be read"),
        (("run", "market.py", "--faults", "drawn", "--report", "out"), "no --report"),
        (("run", "market.py", "--faults", "1 pause seller,nobody"), "'1 pause seller,nobody': no node is"),
        (("replay", "market.py", "--faults", "1 pause nobody"), "'1 pause nobody': no node is"),
        (("replay", "out", "--faults", "drawn"), "--faults goes with a model's FILE"),
        (("replay", "out", "--seed", "7"), "--seed goes with a model's FILE"),
        (("replay", "out", "--signed", "keyed"), "--signed goes with a model's FILE"),
        (("replay", "none.py"), "none.py"),
    ],
    ids=[
        *("no fault", "no file", "with a report", "of nobody", "of nobody again", "of a saved result"),
        *("another seed", "other signatures", "no model"),
    ],
)
def test_faults_that_cannot_be_are_refused(
    words: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert why in refused(capsys, *words)


def test_no_faults_at_all_are_faults_too(capsys: pytest.CaptureFixture[str]) -> None:
    calm = as_json(capsys, "run", "market.py")
    assert as_json(capsys, "run", "market.py", "--faults", "") == calm


def test_debug_may_stand_after_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "odd.py").write_text("async def model(world):\n    {}['here']  # the line\n")
    for words in (("--debug", "sim", "run", "odd.py"), ("sim", "run", "odd.py", "--debug")):
        assert main(list(words)) == exit_codes.FAILED
        assert "# the line" in capsys.readouterr().err


def test_diff_tells_the_first_difference(capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        saved(capsys, name, "--seed", seed)
    assert told(capsys, "diff", "a", "b") == "the same\n"
    text = told(capsys, "diff", "a", "c", status=exit_codes.FAILED)
    assert "seed: 7 / 8" in text
    assert "first difference at event" in text
    assert as_json(capsys, "diff", "a", "c", status=exit_codes.FAILED)["same"] is False


def test_show_tells_what_run_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = saved(capsys, "out", "--seed", "7")
    assert as_json(capsys, "show", "out") == as_json(capsys, "run", "market.py", "--seed", "7")
    told(capsys, "show", "out", "--page", "page.html")
    assert result.hash in (here / "page.html").read_text()
    assert "not overwritten" in refused(capsys, "show", "out", "--page", "page.html")


@pytest.mark.parametrize("words", [("show", "none"), ("replay", "none"), ("diff", "none", "none")])
def test_where_nothing_is_saved_nothing_is_shown(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no saved result" in refused(capsys, *words)


# --- sweep ----------------------------------------------------------------------------------------


def test_a_sweep_has_a_line_for_each_point(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("sweep", "market.py", "--agents", "1", "2", "--seeds", "1-2", "4", "--processes", "1")
    head, *lines = told(capsys, *words, "--out", "runs").splitlines()
    assert head.split()[:3] == ["agents", "runs", "trades"]
    assert head.split()[-1] == "drawn"
    assert [line.split()[:2] for line in lines] == [["1", "3"], ["2", "3"]]
    table = load_sweep("runs")
    assert list(table["seed"]) == [1, 2, 4] * 2
    assert "not overwritten" in refused(capsys, *words, "--out", "runs")


def test_programs_get_a_line_for_each_run(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("sweep", "market.py", "--seeds", "1", "2", "--processes", "1", "--json")
    rows = [json.loads(line) for line in told(capsys, *words).splitlines()]
    assert [row["seed"] for row in rows] == [1, 2]
    assert rows[0]["hash"] == as_json(capsys, "run", "market.py", "--seed", "1")["hash"]


def test_a_failed_run_ends_the_sweep_or_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("sweep", "market.py", "--style", "calm", "wild", "--seeds", "1", "--processes", "1")
    said = refused(capsys, *words, status=exit_codes.FAILED)
    assert "seed=1, style='wild' failed: ArithmeticError: too wild" in said
    rows = told(capsys, *words, "--keep-failures", "--json", status=exit_codes.FAILED).splitlines()
    assert [bool(json.loads(row)["error"]) for row in rows] == [False, True]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--seeds", "1", "1"], "seed 1 stands twice", id="a seed twice"),
        pytest.param(["--seeds", "5-1"], "range of seeds 5-1 is empty", id="an empty range"),
        pytest.param(["--seeds", "a"], "neither a seed nor a range", id="no seed"),
        pytest.param(["--agents", "3", "3"], "3 twice for 'agents'", id="a value twice"),
        pytest.param(["--processes", "0"], "at least one process", id="no process"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, "sweep", "market.py", *words)


def test_json_has_no_word_for_what_is_no_number() -> None:
    assert [cli_sim._finite(value) for value in (float("nan"), float("inf"), 1.5, 2)] == [None, None, 1.5, 2]
