"""Folders in which others are at work."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_bridge.assets import home_dir
from ollama_bridge.cli.runs import runs_ls, runs_show
from ollama_bridge.label_store.catalogue import _sizes
from ollama_bridge.storage.folder_files import statuses

MANIFEST = '{"stage": "s", "key": "k", "created_at": "t", "facts": {}}'


@pytest.fixture
def busy() -> Iterator[Path]:
    """A run whose files and folders come and go, as those of a build do."""
    run = home_dir() / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "events.jsonl").write_text("12345")
    ended = threading.Event()

    def build() -> None:
        while not ended.is_set():
            for stage in (run / "corpus", run / "student"):
                (stage / "parts").mkdir(parents=True)
                for name in (".manifest.json.7.tmp", "parts/a", "parts/b"):
                    (stage / name).write_text(MANIFEST)
                (stage / ".manifest.json.7.tmp").rename(stage / "manifest.json")
            shutil.rmtree(run / "corpus")
            shutil.rmtree(run / "student")

    thread, before_s = threading.Thread(target=build), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    yield run
    ended.set()
    thread.join()
    sys.setswitchinterval(before_s)


def test_what_vanishes_is_no_error(busy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However often one looks: at sizes, and at runs while they are built."""
    for _ in range(200):
        assert 5 in [one.st_size for one in statuses(busy)]
        assert sum(_sizes(busy)) >= 5
        runs_ls()
        runs_show("mine")
    assert capsys.readouterr().out.count("mine\t") == 200
