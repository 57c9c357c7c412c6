"""Building a daemon: complete or absent, resumed, and clear about what is missing."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fakes.command_line import example
from fakes.listening import Listener
from fakes.stops import Killed
from typer.testing import CliRunner

from ollama_bridge import cli
from ollama_bridge.daemon import build, find, install, layout, toolchain
from ollama_bridge.downloads import PinnedPackage
from ollama_bridge.errors import (
    ArtifactError,
    ConfigError,
    DaemonInstallError,
    DiskFullError,
)
from ollama_bridge.machine import cores
from ollama_bridge.reporting import Progress

_GO = """#!/bin/sh
echo "go $*" >>"$CALLS"
[ "$1" != install ] || echo "cgo $CGO_CPPFLAGS" >>"$CALLS"
[ "$1" = env ] || echo "places $TMPDIR $GOCACHE $GOMODCACHE" >>"$CALLS"
[ "$1" != "$FAKE_FULL_AT" ] || { echo "write $FAKE_FULL: no space left on device" >&2; exit 1; }
case "$1" in
  env) [ "$2" != GOMODCACHE ] || { echo "$FAKE_MODULES"; exit; }
    echo '{"GOVERSION": "go1.26.3", "GOTOOLCHAIN": "local"}' ;;
  mod) [ -z "$FAKE_SILENCE" ] || exec /bin/sleep 600
    echo '{"Sum": "'"${FAKE_SUM}"'"}' ;;
  install) mkdir -p "$GOBIN" && printf '#!/bin/sh\\n' >"$GOBIN/ollama" ;;
esac
"""
_CMAKE = """#!/bin/sh
echo "cmake $*" >>"$CALLS"
echo "flags $CFLAGS; $CXXFLAGS" >>"$CALLS"
[ -z "$FAKE_CMAKE_FAILURE" ] || { echo "ggml.c:1: error: $FAKE_CMAKE_FAILURE"; exit 2; }
case "$1" in
  -S) mkdir -p "$4/bin" ;;
  --build)
    for name in llama-server llama-quantize; do
      case " $* " in *" $name "*) ;; *) continue ;; esac
      printf '#!/bin/sh\\necho version\\n' >"$2/bin/$name"
      chmod +x "$2/bin/$name"
    done ;;
esac
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, fake tools on PATH, and no network."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {"go": _GO, "cmake": _CMAKE, "c++": "", "make": ""}.items():
        (tools / name).write_text(text or "#!/bin/sh\n")
        (tools / name).chmod(0o755)
    for name in ("mkdir", "chmod"):
        (tools / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("FAKE_SUM", layout.RELEASES[layout.VERSION].module_sum)
    monkeypatch.setenv("OLLAMA_BRIDGE_DAEMON_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.delenv("CXX", raising=False)

    def fetch(package: PinnedPackage, folder: Path) -> Path:
        folder.mkdir(parents=True)
        archive = folder / "archive"
        archive.touch()
        return archive

    def unpack(archive: Path, folder: Path, **_: object) -> list[Path]:
        (folder / "llama.cpp").mkdir()
        return []

    monkeypatch.setattr(build, "fetch_package", fetch)
    monkeypatch.setattr(build, "unpack", unpack)
    monkeypatch.setattr(build, "_POLL_INTERVAL_S", 0.01)
    return tmp_path / "cache"


def calls(cache: Path) -> list[str]:
    """What the fake tools were asked to do, beside the questions about their version."""
    lines = (cache.parent / "calls").read_text().splitlines()
    return [
        line.split()[0]
        for line in lines
        if not line.startswith(("go env", "cgo", "places", "flags"))
    ]


def test_install_builds_both_programs_and_leaves_no_scratch(cache: Path) -> None:
    """An install ends with both programs, a manifest and the log, and nothing else."""
    binary = install.install_daemon()
    folder = cache / layout.VERSION
    assert binary == folder / "bin" / "ollama"
    assert os.access(folder / layout.RUNNER, os.X_OK)
    record = json.loads((folder / "installed.json").read_text())
    digest = hashlib.sha256(binary.read_bytes()).hexdigest()
    assert record["files"]["bin/ollama"]["sha256"] == digest
    left = {path.name for path in cache.iterdir()}
    assert left == {layout.VERSION, f".{layout.VERSION}.lock", f"install-{layout.VERSION}.log"}


def test_a_kill_leaves_no_scratch_beside_a_whole_install(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gigabytes, for which nobody would look again."""
    remove = shutil.rmtree

    def killed(path: Path, **options: bool) -> None:
        if path.name.endswith(".build"):
            raise Killed
        remove(path, **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", killed)
        install.install_daemon()
    install.install_daemon()
    assert not (cache / f".{layout.VERSION}.build").exists()


def test_a_program_is_on_the_disk_before_it_has_its_name(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty one, as a power cut leaves it, would be taken for built, and given out."""
    synced = []

    def sync(path: Path) -> None:
        synced.append(path.name)
        assert not path.with_name(path.name[1:].removesuffix(".tmp")).exists()

    monkeypatch.setattr(build, "sync_to_disk", sync)
    install.install_daemon()
    assert synced == [".ollama.tmp", ".llama-server.tmp"]


def test_examples_do_what_they_show(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as the help shows it."""
    for version, words in (
        (layout.VERSION, example("daemon install")),
        ("0.24.0", example("daemon install --version 0.24.0")),
    ):
        monkeypatch.setenv("FAKE_SUM", layout.RELEASES[version].module_sum)
        done = CliRunner().invoke(cli.app, words)
        assert done.stdout == f"binary  {cache / version / 'bin' / 'ollama'}\n"


def test_second_install_does_nothing(cache: Path) -> None:
    """What is installed is found installed."""
    install.install_daemon()
    before = calls(cache)
    assert install.install_daemon() == cache / layout.VERSION / "bin" / "ollama"
    assert calls(cache) == before


def test_what_another_user_has_installed_needs_no_lock(cache: Path) -> None:
    """A folder that is shared, and cannot be written; what is not there names the way out."""
    installed = install.install_daemon(version=layout.VERSION)
    lock = cache / f".{layout.VERSION}.lock"
    lock.unlink()
    lock.mkdir()  # as little to be opened as another user's, also by root
    assert install.install_daemon(version=layout.VERSION) == installed
    (cache / ".0.24.0.lock").mkdir()
    with pytest.raises(DaemonInstallError, match="cannot write") as caught:
        install.install_daemon(version="0.24.0")
    assert str(caught.value.hint) == "export OLLAMA_BRIDGE_DAEMON_DIR=/a/folder/you/may/write"


def test_an_older_version_lies_beside_the_one_in_use(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.24.0 holds its runner, built with the headers of llama.cpp; it is never the default."""
    old = "0.24.0"
    monkeypatch.setenv("FAKE_SUM", layout.RELEASES[old].module_sum)
    binary = install.install_daemon(version=old)
    assert binary == layout.installed_binary(old) == cache / old / "bin" / "ollama"
    assert {path.name for path in (cache / old).iterdir()} == {"bin", "installed.json"}
    assert calls(cache) == ["go", "go"]
    lines = (cache.parent / "calls").read_text().splitlines()
    (asked,) = [line for line in lines if line.startswith("cgo")]
    assert re.match(rf"cgo -I{re.escape(str(cache))}/\S+/llama\.cpp/vendor ", asked)
    assert layout.installed_binary() is None
    assert find.find_binary() is None


def test_a_release_that_writes_every_file_again_gets_what_it_does_it_with(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both programs of llama.cpp in one build."""
    middle = "0.33.3"
    monkeypatch.setenv("FAKE_SUM", layout.RELEASES[middle].module_sum)
    install.install_daemon(version=middle)
    built = sorted(path.name for path in (cache / middle / "lib" / "ollama").iterdir())
    assert built == ["llama-quantize", "llama-server"]
    assert calls(cache) == ["go", "go", "cmake", "cmake"]
    (cache / middle / layout.QUANTIZER).unlink()
    assert layout.installed_binary(middle) is None


def test_a_runner_is_compiled_without_amx(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind flags of the user's; one that was compiled with it is built again."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(layout, "cpu_features", lambda: ("amx_tile", "avx2"))
    monkeypatch.setenv("CXXFLAGS", "-g")
    install.install_daemon()
    lines = (cache.parent / "calls").read_text().splitlines()
    without = "-U__AMX_INT8__"  # which every compiler takes
    assert {line for line in lines if line.startswith("flags")} == {
        f"flags {without}; -g {without}"
    }
    path = cache / layout.VERSION / "installed.json"
    record = json.loads(path.read_text())
    assert record["cpu_features"] == ["avx2"]
    path.write_text(json.dumps(record | {"cpu_features": ["amx_tile", "avx2"]}))
    assert layout.installed_binary() is None


def test_an_asked_version_is_built_although_another_is_on_path(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that is asked for by name is never replaced by one that happens to be there."""
    other = cache.parent / "tools" / "ollama"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    assert install.install_daemon() == other
    assert install.install_daemon(version=f"v{layout.VERSION}") != other


def test_an_unknown_version_is_refused(cache: Path) -> None:
    """Only pinned versions are built, whatever the text."""
    with pytest.raises(ConfigError, match=r"\.\./0\.24\.0 cannot be built") as caught:
        install.install_daemon(version="../0.24.0")
    assert layout.VERSION in str(caught.value.hint)
    assert not cache.exists()


def test_failed_part_is_named_with_its_log_and_the_other_part_is_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed runner the next install builds the runner alone."""
    monkeypatch.setenv("FAKE_CMAKE_FAILURE", "no such header")
    with pytest.raises(DaemonInstallError, match="no such header") as caught:
        install.install_daemon()
    assert f"install-{layout.VERSION}.log" in str(caught.value.hint)
    assert not (cache / layout.VERSION).exists()
    monkeypatch.delenv("FAKE_CMAKE_FAILURE")
    before = len(calls(cache))
    install.install_daemon()
    assert calls(cache)[before:] == ["cmake", "cmake"]


def test_work_that_takes_longer_than_thought_is_not_always_about_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine needed 17 minutes for what takes four, "1 s left" for most of them."""
    clock = itertools.count(0.0, 100.0)
    monkeypatch.setattr(build.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(build, "_POLL_INTERVAL_S", 0.05)
    heard = Listener()
    log = tmp_path / "log"
    log.touch()
    with subprocess.Popen(["sleep", "0.5"]) as process:
        build._watch(process, log, 0, heard, work_s=200.0 * cores())
    told = [event for event in heard.events if isinstance(event, Progress)]
    assert told[0].total == 200
    assert all(event.total - event.done >= event.done / 5 for event in told)
    assert told[-1].done > 200


@pytest.mark.parametrize("architecture", ["sapphirerapids", "native"])
def test_code_for_this_processor_is_without_amx(architecture: str) -> None:
    """cgo compiles what calls ggml's AMX files, and not the files: linking failed."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or platform.machine() != "x86_64":
        pytest.skip("needs a C++ compiler for x86-64")
    flags = build._cgo_flags(Path("llama.cpp"))
    asked = f"{flags['CGO_CPPFLAGS']} {flags['CGO_CXXFLAGS']}".replace("native", architecture)
    command = [compiler, *asked.split(), "-dM", "-E", "-x", "c++", "/dev/null"]
    defined = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "__OPTIMIZE__" in defined
    assert "__AMX_INT8__" not in defined


@pytest.mark.parametrize("step", ["mod", "install"])
@pytest.mark.parametrize(
    ("full", "named", "way_out"),
    [
        ("{cache}/x/go-cache/ab", ".build", "export OLLAMA_BRIDGE_DAEMON_DIR=/a/larger/disk"),
        ("{modules}/cache/x.zip", "modules", "export GOMODCACHE=/a/larger/disk"),
    ],
    ids=["ours", "the user's modules"],
)
def test_a_disk_that_go_has_filled_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch, step: str, full: str, named: str, way_out: str
) -> None:
    """Not the module proxy; and the place that its modules are in, where that is the user's."""
    modules = cache.parent / "modules"
    modules.mkdir()
    monkeypatch.setenv("FAKE_MODULES", str(modules))
    monkeypatch.setenv("FAKE_FULL_AT", step)
    monkeypatch.setenv("FAKE_FULL", full.format(cache=cache, modules=modules))
    with pytest.raises(DiskFullError) as caught:
        install.install_daemon()
    assert caught.value.path.name.endswith(named)
    assert way_out in str(caught.value.hint)


@pytest.mark.parametrize("has_modules", [True, False])
def test_what_go_makes_goes_with_the_scratch(
    cache: Path, monkeypatch: pytest.MonkeyPatch, *, has_modules: bool
) -> None:
    """Modules that were fetched before are used, and nowhere else where nothing can be fetched."""
    modules = cache.parent / "modules"
    if has_modules:
        modules.mkdir()
    monkeypatch.setenv("FAKE_MODULES", str(modules))
    monkeypatch.delenv("GOCACHE", raising=False)
    install.install_daemon()
    lines = (cache.parent / "calls").read_text().splitlines()
    places = {tuple(line.split()[1:]) for line in lines if line.startswith("places")}
    (one,) = places
    scratch = str(cache / f".{layout.VERSION}.build")
    assert [place.startswith(scratch) for place in one] == [True, True, not has_modules]
    assert not has_modules or one[2] == str(modules)


def test_a_user_s_build_cache_is_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names one wants it to be."""
    monkeypatch.setenv("GOCACHE", "/srv/go")
    install.install_daemon()
    assert " /srv/go " in (cache.parent / "calls").read_text()


def test_other_code_from_the_module_proxy_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module with another digest than the pinned one is not built."""
    monkeypatch.setenv("FAKE_SUM", "h1:other=")
    with pytest.raises(DaemonInstallError, match="h1:other="):
        install.install_daemon()
    assert calls(cache) == ["go"]


def test_a_module_proxy_that_says_nothing_is_not_waited_for_without_end(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Go has no limit of its own, and nothing would be shown meanwhile."""
    monkeypatch.setenv("FAKE_SILENCE", "1")
    monkeypatch.setattr(build, "_FETCH_LIMIT_S", 0.1)
    with pytest.raises(DaemonInstallError, match="could not be fetched within") as caught:
        install.install_daemon()
    assert "proxy reachable" in str(caught.value.hint)
    assert not (cache / layout.VERSION).exists()


def test_unfetchable_sources_are_a_daemon_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package index that is not reachable is reported with the hint of the fetch."""

    def offline(package: PinnedPackage, folder: Path) -> Path:
        raise ArtifactError("no route", hint="pip download x")

    monkeypatch.setattr(build, "fetch_package", offline)
    with pytest.raises(DaemonInstallError, match="no route") as caught:
        install.install_daemon()
    assert caught.value.hint == "pip download x"


def test_missing_tools_are_named_with_the_command_that_installs_them(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without compiler and cmake the error names both, and the official release."""
    for name in ("c++", "cmake"):
        (cache.parent / "tools" / name).unlink()
    monkeypatch.setattr(toolchain, "find_uv", lambda: None)
    monkeypatch.setattr(toolchain.sys, "platform", "linux")
    with pytest.raises(DaemonInstallError, match=r"g\+\+, cmake") as caught:
        install.install_daemon()
    assert "apt-get install -y g++ cmake" in str(caught.value.hint)
    assert "ollama.com/install.sh" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("version", "switch", "usable"),
    [
        ("go1.26.0", "local", True),
        ("go1.27rc1", "local", True),
        ("go1.24.3", "local", False),
        ("go1.24.3", "auto", True),
        ("go1.19.8", "auto", False),
        ("devel", "auto", False),
    ],
)
def test_go_is_usable_if_new_enough_or_able_to_upgrade(
    tmp_path: Path, version: str, switch: str, usable: bool
) -> None:
    """Go 1.26 builds Ollama; from 1.21 on an older one may fetch it, where that is allowed."""
    go = tmp_path / "go"
    answer = json.dumps({"GOVERSION": version, "GOTOOLCHAIN": switch})
    go.write_text(f"#!/bin/sh\necho '{answer}'\n")
    go.chmod(0o755)
    assert toolchain._is_usable(str(go)) is usable


@pytest.mark.parametrize("damage", ["truncated", "missing", "not executable", "other processor"])
def test_damaged_install_counts_as_absent(
    cache: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed program, or one built for a processor with more features, is built again."""
    binary = install.install_daemon()
    if damage == "truncated":
        binary.write_bytes(b"")
    elif damage == "missing":
        binary.unlink()
    elif damage == "not executable":
        binary.chmod(0o644)
    else:
        record = json.loads((cache / layout.VERSION / "installed.json").read_text())
        record["cpu_features"] = ["avx9000"]
        (cache / layout.VERSION / "installed.json").write_text(json.dumps(record))
    if damage != "not executable" or os.geteuid() != 0 or not os.access(binary, os.X_OK):
        assert layout.installed_binary() is None
        assert install.install_daemon() == binary
        assert layout.installed_binary() == binary
