"""The model card in the folder of a run: whose it is, and what is left alone."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from fakes.listening import Listener

from ollama_bridge.client import ModelDetails
from ollama_bridge.publishing import papers
from ollama_bridge.publishing.card import model_card
from ollama_bridge.publishing.papers import CARD_NAME, write_card
from ollama_bridge.publishing.provenance import Provenance
from ollama_bridge.reporting import Note


def card_of(name: str) -> str:
    """A model card, as it is written for a tag of which nothing is known."""
    return model_card(name, ModelDetails("", "", "", "", {}, (), {}), Provenance(), published=False)


def test_a_card_of_ours_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was, or of another tag; each time it is said where it is."""
    path, listener = tmp_path / CARD_NAME, Listener()
    for name in ("m", "n"):
        text = card_of(name)
        monkeypatch.setattr(papers, "card", lambda *_, text=text, **__: text)
        write_card("m", tmp_path, reporter=listener)
        assert path.read_text(encoding="utf-8") == text
    levels = [event.level for event in listener.events if isinstance(event, Note)]
    assert levels == ["info", "info"]


@pytest.mark.parametrize("own", ["before", "behind", "alone", "unreadable", "folder"])
def test_a_card_of_the_users_own_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    """Also one of ours with notes in it; what it is stops nothing, and the card can be had."""
    text = card_of("m")
    monkeypatch.setattr(papers, "card", lambda *_, **__: text)
    run, listener = tmp_path / "my run", Listener()
    path = run / CARD_NAME
    run.mkdir()
    if own == "folder":
        path.mkdir()
    elif own == "unreadable":
        path.symlink_to(path.name)  # to itself: nobody reads it, not even root
    else:
        notes = {"before": f"Notes.\n\n{text}", "behind": f"{text}\nNotes.\n"}
        path.write_text(notes.get(own, "Notes."), encoding="utf-8")
    before = None if own in ("folder", "unreadable") else path.read_bytes()
    write_card("m:latest", run, host="[::1]:11434", reporter=listener)
    if before is None:
        assert path.is_dir() or path.is_symlink()
    else:
        assert path.read_bytes() == before
    (note,) = [event for event in listener.events if isinstance(event, Note)]
    assert note.level == "warning"
    command = note.message.partition("is kept; ")[2].removesuffix(" prints the card of this run")
    assert shlex.split(command)[1:] == [
        *("card", "m:latest", "--run", str(run)),
        *("--host", "[::1]:11434"),
    ]
