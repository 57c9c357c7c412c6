"""Artefacts are complete or absent, found again by their key, and never shared by two writers."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.stops import power_may_fail

from ollama_bridge.digests import digest_text
from ollama_bridge.errors import ArtifactError, DiskFullError
from ollama_bridge.examples import Example, Message, read_examples, write_examples
from ollama_bridge.models.sources.links import linked_digests
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, Work
from ollama_bridge.storage.atomic_files import (
    open_atomic,
    raise_if_disk_full,
    read_json_lines,
    sync_to_disk,
    write_json_lines_atomic,
    write_text_atomic,
)
from ollama_bridge.storage.drafts import open_draft


def work(lr: float = 1.0) -> Work:
    return Work("corpus", "prepare", 1, {"data": "abc"}, {"lr": lr}, seed=3)


def make(out_dir: Path, lr: float = 1.0) -> Corpus:
    with open_draft(out_dir, work(lr)) as draft:
        (draft.path / "train.jsonl").write_text("{}\n")
        (draft.path / "resume.json").write_text("working state")
        return Corpus(out_dir, draft.commit({"rows": 1}))


def test_committed_artifact_opens_and_keeps_its_facts(tmp_path: Path) -> None:
    """What was committed can be opened, with facts, and without the working state."""
    make(tmp_path / "corpus")
    corpus = Corpus.open(tmp_path / "corpus", verify_digests=True)
    assert corpus.facts == {"rows": 1}
    assert {path.name for path in corpus.path.iterdir()} == {"train.jsonl", "manifest.json"}


def test_links_are_known_by_what_they_link_to(tmp_path: Path) -> None:
    """Their digest is that of the manifest, unless somebody wrote into the file since."""
    corpus = make(tmp_path / "corpus")
    file, linked = corpus.path / "train.jsonl", tmp_path / "linked"
    os.utime(file, (1, 1))
    linked.mkdir()
    assert linked_digests(corpus, linked) == {}
    (linked / "train.jsonl").write_bytes(file.read_bytes())
    assert linked_digests(corpus, linked) == {}  # the same bytes, as far as anybody knows
    (linked / "train.jsonl").unlink()
    (linked / "train.jsonl").hardlink_to(file)
    sha256 = digest_text("{}\n")
    assert linked_digests(corpus, linked) == {"train.jsonl": f"sha256:{sha256}"}
    (linked / "train.jsonl").write_text("[]\n")
    assert not corpus.is_as_written("train.jsonl")
    assert linked_digests(corpus, linked) == {}


def test_same_work_is_found_done(tmp_path: Path) -> None:
    """The same stage version, inputs and settings find the finished manifest."""
    made = make(tmp_path / "corpus")
    with open_draft(tmp_path / "corpus", work()) as draft:
        assert draft.finished is not None
        assert draft.finished.digest == made.digest


def test_changed_settings_are_other_work(tmp_path: Path) -> None:
    """A changed learning rate is not mistaken for done work."""
    make(tmp_path / "corpus", lr=1.0)
    with open_draft(tmp_path / "corpus", work(lr=2.0)) as draft:
        assert draft.finished is None


def test_interrupted_draft_is_kept_for_the_same_work_only(tmp_path: Path) -> None:
    """An interrupted stage finds its files again; other work starts with an empty folder."""
    with pytest.raises(KeyboardInterrupt), open_draft(tmp_path / "corpus", work()) as draft:
        (draft.path / "resume.json").write_text("half")
        raise KeyboardInterrupt
    assert not (tmp_path / "corpus").exists()
    with open_draft(tmp_path / "corpus", work()) as draft:
        assert (draft.path / "resume.json").read_text() == "half"
    with open_draft(tmp_path / "corpus", work(lr=2.0)) as draft:
        assert not (draft.path / "resume.json").exists()


def test_second_writer_is_refused(tmp_path: Path) -> None:
    """While one process writes an artefact, another one is told so."""
    script = (
        "import sys; from pathlib import Path\n"
        "from ollama_bridge.storage.artifacts import Work\n"
        "from ollama_bridge.storage.drafts import open_draft\n"
        "from ollama_bridge.errors import ArtifactError\n"
        "try:\n"
        "    with open_draft(Path(sys.argv[1]), Work('corpus', 'prepare', 1)): pass\n"
        "except ArtifactError as error: print(error)\n"
    )
    with open_draft(tmp_path / "corpus", work()):
        other = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "corpus")],
            capture_output=True,
            text=True,
            check=True,
        )
    assert "another process is writing" in other.stdout


def test_foreign_folder_is_never_replaced(tmp_path: Path) -> None:
    """A folder that is not ours is refused and stays as it is."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "thesis.txt").write_text("mine")
    with (
        pytest.raises(ArtifactError, match="not an artefact"),
        open_draft(tmp_path / "corpus", work()),
    ):
        pass
    assert (tmp_path / "corpus" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "train.jsonl").unlink(), "is missing"),
        (lambda folder: (folder / "train.jsonl").write_text("longer text"), "has 11 bytes"),
        (lambda folder: (folder / "train.jsonl").write_text("[]\n"), "was changed"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "cannot be read"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff{}"), "cannot be read"),
        (lambda folder: (folder / "manifest.json").unlink(), "not a finished artefact"),
    ],
)
def test_damage_is_told_with_the_place(tmp_path: Path, damage, message: str) -> None:
    """A missing, resized or changed file and a bad manifest are each named."""
    corpus = make(tmp_path / "corpus")
    damage(corpus.path)
    with pytest.raises(ArtifactError, match=message):
        Corpus.open(corpus.path, verify_digests=True)


def test_a_folder_that_is_not_there_is_no_unfinished_one(tmp_path: Path) -> None:
    """No stage is to be run again for a name that was mistyped."""
    with pytest.raises(ArtifactError, match=r"corpsu: no such folder") as caught:
        Corpus.open(tmp_path / "corpsu")
    assert caught.value.hint == "check the path"


def test_damaged_artifact_is_built_again(tmp_path: Path) -> None:
    """A stage whose output lost a file does not count as done."""
    corpus = make(tmp_path / "corpus")
    (corpus.path / "train.jsonl").unlink()
    with open_draft(tmp_path / "corpus", work()) as draft:
        assert draft.finished is None


def test_wrong_kind_is_refused(tmp_path: Path) -> None:
    """A corpus is not taken for a checkpoint."""
    make(tmp_path / "corpus")
    with pytest.raises(ArtifactError, match="is a corpus, not a checkpoint"):
        Checkpoint.open(tmp_path / "corpus")


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A manifest of another schema version is not guessed at."""
    corpus = make(tmp_path / "corpus")
    manifest = json.loads((corpus.path / "manifest.json").read_text())
    (corpus.path / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(ArtifactError, match="schema 99"):
        Corpus.open(corpus.path)


@pytest.mark.parametrize(
    ("place", "elsewhere"),
    [
        ("home/models/x", "export OLLAMA_BRIDGE_HOME=/"),
        ("home/downloads/x", "pass --out DIR"),
        ("home/runs/x", "pass --out DIR"),
        ("daemons/0.34.4", "export OLLAMA_BRIDGE_DAEMON_DIR=/"),
        ("out", "pass --out DIR"),
    ],
)
def test_where_to_go_from_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, elsewhere: str
) -> None:
    """Not every command has an ``--out``."""
    monkeypatch.setenv("OLLAMA_BRIDGE_DAEMON_DIR", str(tmp_path / "daemons"))
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DiskFullError) as caught:
        raise_if_disk_full(full, tmp_path / place)
    assert elsewhere in (caught.value.hint or "")


def test_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    """No space left becomes DiskFullError, on whatever line of the stage it happens."""
    with (
        pytest.raises(DiskFullError, match="no space left"),
        open_draft(tmp_path / "corpus", work()),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("text", ["a\u2028b", "a\u0085b", "a\x1cb", "a\r\nb", ""])
def test_json_lines_are_read_as_written(tmp_path: Path, text: str) -> None:
    """What parts lines elsewhere is a character like others inside a text."""
    write_json_lines_atomic(tmp_path / "a.jsonl", [{"said": text}, {"said": "b"}])
    assert read_json_lines(tmp_path / "a.jsonl") == [{"said": text}, {"said": "b"}]


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    """A server's JSON may spell what UTF-8 cannot; that is no reason to lose the other answers."""
    write_json_lines_atomic(tmp_path / "a.jsonl", [{"said": json.loads('"so \\ud83d"')}])
    assert read_json_lines(tmp_path / "a.jsonl") == [{"said": "so ?"}]
    assert digest_text("so \ud83d") != digest_text("so ?")
    example = Example("a", (Message("user", "q"), Message("assistant", "so \ud83d")), "a")
    write_examples(tmp_path / "b.jsonl", [example])
    assert [one.messages[-1].content for one in read_examples(tmp_path / "b.jsonl")] == ["so ?"]


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """A pipe or a device stays what it is: root could replace ``/dev/null`` for everybody."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        write_text_atomic(path, "whole")
        assert os.read(reader, 100) == b"whole"
        os.close(reader)
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == [link, pipe]


def test_atomic_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    """Writing a text leaves exactly that file."""
    write_text_atomic(tmp_path / "a.json", "1")
    write_text_atomic(tmp_path / "a.json", "2")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "2"


def test_a_file_keeps_its_readers_when_it_is_written_anew(tmp_path: Path) -> None:
    """A private one stays private, and what a link leads to is written, not the link."""
    file, link = tmp_path / "a.json", tmp_path / "link.json"
    write_text_atomic(file, "1", private=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    link.symlink_to(file.name)
    for mode in (0o640, 0o600):
        file.chmod(mode)
        write_text_atomic(link, oct(mode))
        assert stat.S_IMODE(file.stat().st_mode) == mode
    assert link.is_symlink()
    assert file.read_text() == oct(0o600)


def test_a_share_that_keeps_permissions_to_itself_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file there is another user's, whose mode nobody else may change."""

    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.fchmod", refused)
    for text in "12":
        write_text_atomic(tmp_path / "a.json", text)
    assert (tmp_path / "a.json").read_text() == "2"


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    """Not what another one is still writing, nor what has another name."""
    killed, busy = tmp_path / ".a.json.99999999.tmp", tmp_path / ".a.json.4.tmp"
    others = [tmp_path / ".b.json.5.tmp", tmp_path / ".a.json.notes.tmp"]
    for path in (killed, busy, *others):
        path.write_text("half")
    with busy.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_text_atomic(tmp_path / "a.json", "1")
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.json",
        *(path.name for path in (busy, *others)),
    }


def test_what_cannot_be_made_to_its_end_is_not_written(tmp_path: Path) -> None:
    """Nor is anything of it left."""
    with (
        pytest.raises(ValueError, match="no more"),
        open_atomic(tmp_path / "a.txt") as stream,
    ):
        stream.write("half")
        raise ValueError("no more")
    assert not list(tmp_path.iterdir())


def test_a_power_cut_leaves_the_old_text_or_the_new_one(tmp_path: Path) -> None:
    """What was written is on the disk before it takes the other's name."""
    with power_may_fail() as disk:
        for text in ("old", "new"):
            write_text_atomic(tmp_path / "a.txt", text)
        write_json_lines_atomic(tmp_path / "b.jsonl", [{"id": 1}])
    assert disk.renamed == ["a.txt", "a.txt", "b.jsonl"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="another system")
def test_folders_of_a_file_system_that_cannot_sync_them() -> None:
    """As Linux's own, and what virtual machines share; a file has to be synced all the same."""
    sync_to_disk(Path("/proc/self"))
    with pytest.raises(OSError, match="Invalid argument"):
        sync_to_disk(Path("/proc/self/stat"))
