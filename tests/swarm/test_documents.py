"""Reading what a person names: what is read, and one named case per refusal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ainp2p.swarm.documents import Limits, read


def refusal(path: Path, limits: Limits | None = None) -> str:
    """Why the one thing named was refused."""
    reading = read([path], limits)
    assert reading.documents == ()
    [refused] = reading.refused
    assert refused.path.startswith(str(path.parent))
    return refused.reason


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# B\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.txt").write_text("z")
    (tmp_path / "LICENSE").write_text("free")
    assert [Path(d.path).name for d in read([tmp_path]).documents] == ["LICENSE", "z.txt", "b.md"]
    assert [d.markdown for d in read([tmp_path]).documents] == [False, False, True]


def test_line_ends_and_byte_order_marks_are_made_alike(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    [document] = read([file]).documents
    assert document.text == "one\ntwo\nthree\n"
    assert document.size == 18


def test_a_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xff")
    (tmp_path / "good.txt").write_text("good")
    reading = read([tmp_path])
    assert [d.text for d in reading.documents] == ["good"]
    assert len(reading.refused) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b" \n\t\n", "empty", id="only spaces"),
        pytest.param(b"\xef\xbb\xbf", "empty", id="only a byte order mark"),
        pytest.param(b"ELF\x00\x01", "binary", id="binary"),
        pytest.param("caf\xe9 au lait".encode("latin-1"), "not UTF-8 (byte 3)", id="another encoding"),
        pytest.param(b"fine until \xe2\x82", "not UTF-8 (byte 11)", id="broken off inside a character"),
        pytest.param("x".encode("utf-16"), "UTF-16", id="UTF-16"),
    ],
)
def test_content_that_is_no_text_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    file = tmp_path / "file.txt"
    file.write_bytes(data)
    assert refusal(file).startswith(reason)


def test_another_kind_of_file_is_refused_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "photo.PNG"
    file.write_text("text, really")
    assert refusal(file) == ".PNG is neither text (.txt, .rst) nor Markdown (.md)"


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere.md") == "no such file or folder"


def test_a_name_with_a_zero_byte_is_refused() -> None:
    [refused] = read(["a\0b.txt"]).refused
    assert "null" in refused.reason


def test_a_file_that_is_too_large_is_refused_without_reading_all_of_it(tmp_path: Path) -> None:
    file = tmp_path / "huge.txt"
    with file.open("wb") as out:
        out.truncate(1 << 40)  # a hole of a terabyte
    assert refusal(file, Limits(file_bytes=1000)) == "larger than 1,000 bytes; split it"


def test_too_much_in_all_is_refused(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("x" * 60)
    reading = read([tmp_path], Limits(total_bytes=130))
    assert len(reading.documents) == 2
    assert reading.refused[0].path.endswith("c.txt")
    assert "in all" in reading.refused[0].reason


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x")
    assert "more than 1 files" in read([tmp_path], Limits(files=1)).refused[0].reason


def test_a_folder_too_deep_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / "1" / "2" / "3"
    deep.mkdir(parents=True)
    (deep / "a.txt").write_text("x")
    [refused] = read([tmp_path], Limits(depth=2)).refused
    assert refused.path == str(deep)


def test_the_walk_ends_after_a_bounded_number_of_entries(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_text("x")
    reading = read([tmp_path], Limits(entries=10))
    assert len(reading.documents) == 9
    assert "the rest is left out" in reading.refused[0].reason


def test_links_that_lead_to_one_another_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "b.txt")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    assert refusal(tmp_path / "a.txt") == "links that lead to one another"


def test_a_link_to_a_folder_above_is_entered_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "up").symlink_to(tmp_path)
    reading = read([tmp_path])
    assert len(reading.documents) == 1
    assert "read before" in reading.refused[0].reason


def test_a_file_that_is_reached_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    assert len(read([tmp_path, tmp_path / "a.txt"]).documents) == 1


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    assert refusal(tmp_path / "pipe.txt") == "not a regular file"


def test_a_device_is_refused() -> None:
    assert read(["/dev/zero"]).refused[0].reason == "not a regular file"


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret.txt"
    file.write_text("x")

    def denied(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # the superuser may read everything
    assert refusal(file) == "no permission to read it"


def test_a_name_that_is_no_utf8_is_shown_and_not_fatal(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    except OSError:
        return  # this file system takes UTF-8 names only
    [document] = read([tmp_path]).documents
    assert document.path.endswith("caf\\xe9.txt")


def test_what_starts_with_a_dot_is_passed_over_unless_it_is_named(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "a.txt").write_text("x")
    (tmp_path / ".hidden.md").write_text("x")
    assert read([tmp_path]).documents == ()
    assert len(read([tmp_path / ".git", tmp_path / ".hidden.md"]).documents) == 2
