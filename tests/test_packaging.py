"""The wheel that users install: its contents, and that it works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built through the source distribution as a release is."""
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(CHECKOUT)]
    subprocess.run(build, capture_output=True, check=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; third-party packages are borrowed, the checkout is not."""
    root = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "env")], check=True)
    (site,) = (root / "env").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return root


def run(installed: Path, *args: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": str(installed / "home")}
    done = subprocess.run(
        [str(installed / "env" / "bin" / "python"), *args],
        capture_output=True,
        text=True,
        cwd=installed,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_exposes_one_package(wheel: Path) -> None:
    """Nothing but ``ollama_bridge`` (and its metadata) lands in site-packages."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"ollama_bridge"}
    assert "ollama_bridge/_assets/recipes/sentiment.yaml" in names
    assert "ollama_bridge/_assets/modelfiles/chatml.Modelfile.j2" in names
    assert "ollama_bridge/py.typed" in names


def test_installed_wheel_is_not_the_checkout(installed: Path) -> None:
    """The tests below look at the wheel's files."""
    file = run(installed, "-c", "import ollama_bridge; print(ollama_bridge.__file__)")
    assert str(installed) in file


def test_installed_wheel_lists_recipes_and_templates(installed: Path) -> None:
    """Recipes and Modelfile templates are found away from the checkout."""
    assert "sentiment-quick" in run(installed, "-m", "ollama_bridge", "recipes", "ls")
    assert "chatml" in run(installed, "-m", "ollama_bridge", "modelfiles", "ls")


def test_installed_wheel_renders_a_template(installed: Path) -> None:
    """A shipped template renders to a Modelfile away from the checkout."""
    text = run(
        installed,
        "-c",
        "from ollama_bridge.assets import find_asset\n"
        "from ollama_bridge.rendering import render_file\n"
        "file = find_asset('modelfiles', 'chatml')\n"
        "print(render_file(file, from_='./model.gguf', system='Be brief.', license_=None,"
        " parameters={'temperature': 0}, turn_end='<|im_end|>').to_text())",
    )
    assert "Be brief." in text
    assert "<|im_start|>" in text
