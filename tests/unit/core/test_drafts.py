"""Wherever a stop hits a draft, the next run goes on, and an older artefact stays whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from fakes.listening import Listener
from fakes.stops import Killed, disk_full_from, killed_at, power_may_fail

from ollama_bridge.errors import ArtifactError, DiskFullError
from ollama_bridge.reporting import Note
from ollama_bridge.storage import drafts
from ollama_bridge.storage.artifacts import Corpus, Work
from ollama_bridge.storage.drafts import open_draft
from ollama_bridge.storage.locks import is_locked, locked

Stop = Callable[[int], AbstractContextManager[None]]
FILES = {"train.jsonl", "parts/a.jsonl", "manifest.json"}
STOPS = pytest.mark.parametrize("stop", [killed_at, disk_full_from])


@pytest.fixture(autouse=True)
def _versions_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking them up reads dozens of files: calls that would have to be stopped at as well."""
    monkeypatch.setattr(drafts, "_versions", dict)


def work(lr: float) -> Work:
    return Work("corpus", "prepare", 1, {"data": "abc"}, {"lr": lr}, seed=3)


def write(folder: Path, lr: float) -> None:
    (folder / "resume-stores").mkdir(exist_ok=True)
    (folder / "resume-stores" / "half.json").write_text("working state")
    (folder / "parts").mkdir(exist_ok=True)
    (folder / "parts" / "a.jsonl").write_text(f"{lr}\n")
    (folder / "train.jsonl").write_text("{}\n")


def make(out_dir: Path, lr: float) -> Corpus:
    with open_draft(out_dir, work(lr)) as draft:
        if draft.finished is None:
            write(draft.path, lr)
            draft.commit({"rows": 1})
        assert draft.finished is not None
        return Corpus(out_dir, draft.finished)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def stopped(stop: Stop, step: int, action: Callable[[], object]) -> bool:
    """Whether the action was; False: it came to its end before."""
    try:
        with stop(step):
            action()
    except (Killed, DiskFullError):
        return True
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        return True
    return False


def stopped_commit(out_dir: Path, stop: Stop, step: int) -> bool:
    """Write the artefact of 2.0 and stop its commit; whether it was stopped."""
    with open_draft(out_dir, work(2.0)) as draft:
        write(draft.path, 2.0)
        return stopped(stop, step, lambda: draft.commit({"rows": 1}))


def test_a_power_cut_leaves_no_half_artefact(tmp_path: Path) -> None:
    """Files come to the disk before the manifest that vouches for them, the folder before its name.

    The one that is replaced, too.
    """
    with power_may_fail() as disk:
        make(tmp_path / "corpus", 1.0)
        make(tmp_path / "corpus", 2.0)
    assert disk.renamed.count("manifest.json") == disk.renamed.count("corpus") == 2
    assert ".corpus.replaced" in disk.renamed


@STOPS
@pytest.mark.parametrize("replaces", [False, True])
def test_stopped_commit_is_gone_on_with(tmp_path: Path, stop: Stop, *, replaces: bool) -> None:
    """At whatever call a commit stops, the same work is then done, or has its working state."""
    expected = make(tmp_path / "expected", 2.0).digest
    step, found_done, found_state = 0, 0, 0
    while True:
        out_dir = tmp_path / str(step) / "corpus"
        if replaces:
            make(out_dir, 1.0)
        was_stopped = stopped_commit(out_dir, stop, step)
        with open_draft(out_dir, work(2.0)) as draft:
            if draft.finished is None:
                assert (draft.path / "resume-stores" / "half.json").exists(), f"call {step}"
                found_state += 1
            else:
                found_done += 1
        assert make(out_dir, 2.0).digest == expected
        assert names(Corpus.open(out_dir, verify_digests=True).path) == FILES
        assert {path.name for path in out_dir.parent.iterdir()} == {"corpus", ".corpus.lock"}
        if not was_stopped:
            break
        step += 1
    assert found_state > 5
    assert found_done > (5 if stop is killed_at else 1)


@STOPS
def test_old_artefact_is_whole_until_the_new_one_is(tmp_path: Path, stop: Stop) -> None:
    """At whatever call a replacement stops, the old work is found done, or the new one is there."""
    old = make(tmp_path / "expected", 1.0).digest
    step, found_old, found_new = 0, 0, 0
    while True:
        out_dir = tmp_path / str(step) / "corpus"
        make(out_dir, 1.0)
        was_stopped = stopped_commit(out_dir, stop, step)
        with open_draft(out_dir, work(1.0)) as draft:
            if draft.finished is not None:
                assert draft.finished.digest == old
                found_old += 1
            else:
                assert Corpus.open(out_dir, verify_digests=True).manifest.work == work(2.0)
                found_new += 1
        if not was_stopped:
            break
        step += 1
    assert found_old > 5
    assert found_new > 0


@STOPS
def test_recovery_may_be_stopped_too(tmp_path: Path, stop: Stop) -> None:
    """A run that finishes what another left is stopped at each of its calls in turn.

    After every third call of the commit, for the time that it takes.
    """
    expected = make(tmp_path / "expected", 2.0).digest
    step = 0
    while True:
        out_dir = tmp_path / str(step) / "corpus"
        make(out_dir, 1.0)
        was_stopped = stopped_commit(out_dir, stop, step)
        again = 0
        while stopped(stop, again, lambda: make(out_dir, 2.0)):  # noqa: B023
            again += 1
        assert Corpus.open(out_dir, verify_digests=True).digest == expected
        assert names(out_dir) == FILES
        if not was_stopped:
            break
        step += 3


@STOPS
def test_draft_that_is_half_removed_is_not_resumed(tmp_path: Path, stop: Stop) -> None:
    """Where other work removes a draft and is stopped, nobody takes the rest for a draft of his."""
    step = 0
    while True:
        out_dir = tmp_path / str(step) / "corpus"
        with open_draft(out_dir, work(1.0)) as draft:
            write(draft.path, 1.0)
        everything = names(draft.path)
        was_stopped = stopped(stop, step, lambda: make(out_dir, 2.0))  # noqa: B023
        with open_draft(out_dir, work(1.0)) as draft:
            assert names(draft.path) in ({".key"}, everything), f"call {step}"
        if not was_stopped:
            break
        step += 1


def begin(out_dir: Path, lr: float, heard: Listener, *, state: str | None = None) -> set[str]:
    """Begin the artefact and stop; what was in the draft before."""
    with open_draft(out_dir, work(lr), reporter=heard) as draft:
        assert draft.finished is None
        before = names(draft.path)
        if state is not None:
            (draft.path / "resume.safetensors").write_text(state)
            (draft.path / "half.gguf").write_text("half")
    return before


def test_unfinished_work_is_kept_while_other_work_is_tried(tmp_path: Path) -> None:
    """A learning rate that is tried costs no hours of training with the one before.

    How much is kept, and where, is told; it goes when either is finished.
    """
    out_dir, heard = tmp_path / "student", Listener()
    begin(out_dir, 1.0, heard, state="x" * 2_000_000)
    begin(out_dir, 2.0, heard, state="y")
    assert begin(out_dir, 3.0, heard) == {".key"}
    notes = [one for one in heard.events if isinstance(one, Note)]
    assert [("is kept (2 MB)" in one.message, one.level) for one in notes] == [(True, "info")]
    kept = Path(notes[0].message.rpartition("rm -r ")[2])
    assert names(kept) == {".key", "resume.safetensors", "half.gguf"}
    assert begin(out_dir, 1.0, heard) == {".key", "resume.safetensors", "half.gguf"}
    with open_draft(out_dir, work(1.0)) as draft:
        assert (draft.path / "resume.safetensors").stat().st_size == 2_000_000
    make(out_dir, 2.0)
    assert {path.name for path in tmp_path.iterdir()} == {"student", ".student.lock"}


def test_what_cannot_be_gone_on_with_is_not_kept(tmp_path: Path) -> None:
    """Half a file without working state takes room and serves nobody."""
    with open_draft(tmp_path / "gguf", work(1.0)) as draft:
        (draft.path / "model.gguf").write_text("half")
    begin(tmp_path / "gguf", 2.0, Listener())
    assert {path.name for path in tmp_path.iterdir()} == {".gguf.draft", ".gguf.lock"}


def test_work_that_fails_before_it_wrote_anything_leaves_no_draft(tmp_path: Path) -> None:
    """Wrong data are told by most first tries; nobody looks for hidden folders behind them."""
    with pytest.raises(ArtifactError), open_draft(tmp_path / "corpus", work(1.0)):
        raise ArtifactError("no such column")
    assert {path.name for path in tmp_path.iterdir()} == {".corpus.lock"}


@STOPS
def test_a_draft_that_steps_aside_is_not_lost_by_a_stop(tmp_path: Path, stop: Stop) -> None:
    """At whatever call it stops, both works find what they had."""
    step = 0
    while True:
        out_dir = tmp_path / str(step) / "student"
        for lr in (1.0, 2.0):
            begin(out_dir, lr, Listener(), state=str(lr))
        was_stopped = stopped(stop, step, lambda: begin(out_dir, 1.0, Listener()))  # noqa: B023
        for lr in (2.0, 1.0):
            with open_draft(out_dir, work(lr)) as draft:
                assert (draft.path / "resume.safetensors").read_text() == str(lr), f"call {step}"
        if not was_stopped:
            break
        step += 1
    assert step > 3


def test_resuming_without_room_keeps_the_draft(tmp_path: Path) -> None:
    """A resume on a full disk fails or goes on; the draft is there afterwards."""
    with open_draft(tmp_path / "corpus", work(1.0)) as draft:
        write(draft.path, 1.0)
    for step in range(20):
        stopped(disk_full_from, step, lambda: make(tmp_path / "corpus", 1.0))
        with open_draft(tmp_path / "corpus", work(1.0)) as draft:
            assert (
                draft.finished is not None or (draft.path / "resume-stores" / "half.json").exists()
            )


def test_done_work_is_restarted_in_an_empty_draft(tmp_path: Path) -> None:
    """What other work left in the draft is not taken for this one's; the old stays until commit."""
    out_dir = tmp_path / "corpus"
    done = make(out_dir, 1.0)
    with open_draft(out_dir, work(2.0)) as draft:
        (draft.path / "foreign.txt").write_text("of 2.0")
    with open_draft(out_dir, work(1.0)) as draft:
        assert draft.finished is not None
        draft.restart()
        assert Corpus.open(out_dir).digest == done.digest
        (draft.path / "train.jsonl").write_text("[]\n")
        draft.commit()
    assert names(out_dir) == {"train.jsonl", "manifest.json"}


def test_folder_that_runs_share_is_waited_for(tmp_path: Path) -> None:
    """Two builds that begin at once import the same teacher: the second takes what the first made.

    Any other folder is one run's, and a second writer is refused.
    """
    out_dir = tmp_path / "cache" / "model"
    with contextlib.ExitStack() as other:
        draft = other.enter_context(open_draft(out_dir, work(1.0)))
        write(draft.path, 1.0)
        with pytest.raises(ArtifactError, match="another process is writing"):
            make(out_dir, 1.0)

        def finish() -> None:
            draft.commit()
            other.close()

        with open_draft(out_dir, work(1.0), on_wait=finish) as found:
            assert found.finished is not None


def test_who_looks_at_a_lock_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``runs ls`` shares the lock for an instant: a build that begins in it waits that long."""
    lock = tmp_path / ".run.lock"
    lock.touch()
    with lock.open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
        with locked(lock, tmp_path, hint="wait"):
            assert is_locked(lock)
    assert not is_locked(lock)


def test_disk_without_locks_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some on a network are; what they answer names no file."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ArtifactError, match=r"\.lock cannot be locked: No locks available"):
        make(tmp_path / "model", 1.0)


@pytest.mark.parametrize("linked", [True, False])
def test_a_disk_cannot_be_the_artefact(tmp_path: Path, linked: bool) -> None:
    """Told before the work: nothing can be renamed to where a disk is mounted."""
    out_dir = Path("/proc")
    if linked:
        out_dir = tmp_path / "gguf"
        out_dir.symlink_to("/proc")
    with pytest.raises(ArtifactError, match=r"/proc.* is a mount point") as caught:
        make(out_dir, 0.1)
    assert ("ln -sfn /proc/gguf" in (caught.value.hint or "")) is linked


def test_a_link_into_a_folder_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draft would lie there; a folder in the user's own has room for it."""
    there, link = tmp_path / "scratch" / "alice", tmp_path / "gguf"
    there.mkdir(parents=True)
    link.symlink_to(there)
    with monkeypatch.context() as patch:  # root may write everywhere
        patch.setattr("os.access", lambda path, _: Path(path) != there.parent)
        with pytest.raises(ArtifactError, match="may not write") as caught:
            make(link, 0.1)
    assert [path.name for path in there.parent.iterdir()] == ["alice"]
    assert f"mkdir -p {there}/gguf; ln -sfn {there}/gguf {link}" in (caught.value.hint or "")


@pytest.mark.parametrize("before", ["nothing", "empty", "an older one"])
def test_a_link_to_a_folder_stays_one(tmp_path: Path, before: str) -> None:
    """All is written where it leads to: that may be another disk, and this one too small."""
    there, link = tmp_path / "large" / "gguf", tmp_path / "gguf"
    link.symlink_to(there)
    if before == "empty":
        there.mkdir(parents=True)
    if before == "an older one":
        make(there, 0.5)
    with open_draft(link, work(0.1)) as draft:
        assert draft.path.parent == there.parent
        assert drafts.draft_path(link) == draft.path
    assert make(link, 0.1).path == link
    assert link.is_symlink()
    assert (there / "train.jsonl").is_file()
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert [path.name for path in there.parent.glob(".*")] == [".gguf.lock"]
    assert make(there, 0.1).manifest.facts == {"rows": 1}


def test_what_is_read_or_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    """``convert ./student --out ./student`` would cost hours of training; a copy may."""
    corpus = make(tmp_path / "corpus", 1.0)
    answers = Work("corpus", "answers", 1, {"corpus": corpus.digest})
    labels = Work("soft_labels", "label", 1, {})
    for other, said in ((answers, "of prepare, which is read here: answers"), (labels, "label")):
        with (
            pytest.raises(ArtifactError, match=f"{said} would replace it"),
            open_draft(corpus.path, other),
        ):
            pass
    assert make(corpus.path, 1.0).digest == corpus.digest
    with open_draft(corpus.path, answers, in_place=True) as draft:
        write(draft.path, 1.0)
        draft.commit()
    assert Corpus.open(corpus.path).manifest.work.stage == "answers"
