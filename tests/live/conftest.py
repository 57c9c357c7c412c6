"""A real daemon for the live tier: private, quiet, and shared by all of its tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from fakes.exports import SYSTEM, Exports, one_at_a_time
from fakes.private_daemon import PrivateDaemon
from fakes.real_registry import find_registry
from llama_converters import LlamaCpp

from ollama_bridge.client import Client
from ollama_bridge.daemon.era import REWRITES_GGUF, has_limit
from ollama_bridge.daemon.find import find_binary
from ollama_bridge.daemon.layout import RELEASES, VERSION, installed_binary
from ollama_bridge.data.packages import fetch_package_file
from ollama_bridge.errors import OllamaBridgeError
from ollama_bridge.models.reference.values import with_reference_values
from ollama_bridge.models.sources.resolve import resolve_model

# Files that take longest, a minute each and more, in this order: begun last, one would leave a
# process alone at the end of a run by several.
LONGEST = (
    *("test_live_build.py", "test_live_eras.py", "test_live_converter_oracle.py"),
    *("test_live_register.py", "test_live_quantize.py", "test_live_architectures.py"),
    *("test_live_chat.py", "test_live_package.py", "test_live_teacher.py", "test_live_verify.py"),
)

# Takes ten minutes to build, and some to be tried: where it was installed it is, CI does without.
OPTIONAL_VERSIONS = ("0.33.3",)

IN_USE = "in use"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the others by name, as they are found."""
    places = {Path(__file__).with_name(name): place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


def absent(what: str, command: str) -> NoReturn:
    """Skip, or fail where the live tier must run (CI sets OLLAMA_BRIDGE_REQUIRE_LIVE=1)."""
    reason = f"{what}; run {command}"
    if os.environ.get("OLLAMA_BRIDGE_REQUIRE_LIVE") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def ollama_binary(caches: dict[str, str]) -> Path:
    """The real ``ollama``: the one on PATH, else the installed one."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in caches.items():
            patch.setenv(name, value)
        found = find_binary()
    if found is None:
        absent("there is no Ollama", "scripts/install-ollama")
    return found


@pytest.fixture(scope="session")
def installed(caches: dict[str, str]) -> Callable[[str], Path]:
    """The ``ollama`` of one version, which lies beside the one in use."""

    def find(version: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in caches.items():
                patch.setenv(name, value)
            found = installed_binary(version)
        if found is None and version in OPTIONAL_VERSIONS:
            pytest.skip(f"there is no Ollama {version}; run scripts/install-ollama {version}")
        if found is None:
            absent(f"there is no Ollama {version}", f"scripts/install-ollama {version}")
        return found

    return find


@pytest.fixture(scope="session")
def daemon(
    ollama_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrivateDaemon]:
    """A private daemon for the whole session; tests use tags of their own in it."""
    with PrivateDaemon(tmp_path_factory.mktemp("daemon"), binary=ollama_binary) as running:
        yield running


@pytest.fixture(
    scope="module", params=[IN_USE, *(version for version in RELEASES if version != VERSION)]
)
def era(
    request: pytest.FixtureRequest,
    ollama_binary: Path,
    installed: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[PrivateDaemon]:
    """A private daemon of each version."""
    binary = ollama_binary if request.param == IN_USE else installed(request.param)
    with PrivateDaemon(tmp_path_factory.mktemp("era"), binary=binary) as running:
        yield running


@pytest.fixture(scope="module")
def client(daemon: PrivateDaemon) -> Iterator[Client]:
    """A client of the shared daemon."""
    with daemon.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def keeps_files(client: Client) -> bool:
    """Whether the daemon's files are those that it was sent: not from 0.30 to 0.34.0."""
    return not has_limit(client.version(), REWRITES_GGUF)


@pytest.fixture(scope="session")
def teacher_gguf(caches: dict[str, str]) -> Path:
    """SmolLM2-135M-Instruct as a GGUF file. Read-only: it lies in the shared cache."""
    return fetched("smollm2-gguf", caches)


@pytest.fixture(scope="session")
def smollm(teacher_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """The real SmolLM2-135M-Instruct, imported from its GGUF, with a system prompt of our own.

    One for all processes of a run. Read-only.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smollm"
    folder.mkdir(exist_ok=True)
    with one_at_a_time(folder):
        imported = resolve_model(str(teacher_gguf), cache_dir=folder / "models")
        checkpoint = with_reference_values(imported, system=SYSTEM, out_dir=folder / "checkpoint")
    return Exports(checkpoint, folder)


@pytest.fixture(scope="session")
def llama_cpp(
    caches: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlamaCpp]:
    """llama.cpp's converters, out of its sources in the shared cache."""
    source = fetched("llama-cpp-converter", caches)
    with LlamaCpp(source, tmp_path_factory.mktemp("llama-cpp") / "log") as running:
        yield running


@pytest.fixture(scope="session")
def ollama_python_tests(caches: dict[str, str]) -> Path:
    """The tests of ollama-python. Read-only: they lie in the shared cache."""
    return fetched("ollama-python-tests", caches)


@pytest.fixture(scope="session")
def registry_binary(caches: dict[str, str]) -> Path:
    """The real ``docker-registry``: the one on PATH, else the unpacked one."""
    found = find_registry(Path(caches["OLLAMA_BRIDGE_ASSETS_DIR"]))
    if found is None and shutil.which("apt-get") is None:
        pytest.skip("there is no docker-registry on PATH, and no Debian to get it from")
    if found is None:
        absent("there is no docker-registry", "scripts/install-registry")
    return found


def fetched(asset: str, caches: dict[str, str]) -> Path:
    """An asset that scripts/fetch-assets has fetched."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in caches.items():
            patch.setenv(name, value)
        try:
            return fetch_package_file(asset)
        except OllamaBridgeError as error:
            absent(str(error), f"scripts/fetch-assets {asset}")
