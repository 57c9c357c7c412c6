"""The structure is data here, and a breach of it fails."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
PACKAGE = CHECKOUT / "ollama_bridge"
ARCHITECTURE = CHECKOUT / "docs" / "architecture.md"
OURS = ("ollama_bridge", "fakes")

# A module may import modules of its own layer's folder and of lower layers only.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"closing", "digests", "errors", "machine", "system_tools"}),
    frozenset(
        {
            "reporting",
            "assets",
            "answer_text",
            "examples",
            "extras",
            "option_kinds",
            "repetition",
        }
    ),
    frozenset({"storage", "quantization"}),
    frozenset({"downloads"}),
    frozenset({"template"}),
    frozenset({"reference", "recipe"}),
    frozenset({"client"}),
    frozenset({"compat"}),
    frozenset(
        {
            "alignment",
            "daemon",
            "models",
            "modelfile",
            "encoding",
            "label_store",
            "doctor",
            "monitoring",
            "registry",
            "run_folder",
            "speed",
            "tag_parameters",
        }
    ),
    frozenset(
        {
            "data",
            "teacher",
            "train",
            "evaluation",
            "conversion",
            "verify",
            "rendering",
            "length_checks",
        }
    ),
    frozenset({"renderer_choice"}),
    frozenset(
        {
            "build_checks",
            "candidate",
            "export",
            "packaged_teacher",
            "registration",
            "verification",
        }
    ),
    frozenset({"publishing"}),
    frozenset({"pipeline"}),
    frozenset({"inspection", "packaging"}),
    frozenset({"cli"}),
)
STAGES = LAYERS[9]
# Exceptions to "no stage imports another", with the reason.
ALLOWED: dict[tuple[str, str], str] = {}
TORCH_FREE = (
    "",
    "client",
    "compat",
    "daemon",
    "data",
    "verify",
    "cli",
    "label_store.catalogue",
    "modelfile",
    "quantization",
    "conversion",
    "models.sources.resolve",
    "models.sources.given_template",
    "template",
    "rendering",
    "registration",
    "registry",
    "verification",
    "packaging",
    "publishing.publication",
    "publishing.pull_proof",
    "publishing.retrieval",
    "cli.tensorboard",
)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def programs() -> list[Path]:
    """What is run beside the package: of scripts/ those in Python, and training/*.py."""
    scripts = [path for path in (CHECKOUT / "scripts").iterdir() if path.is_file()]
    found = [path for path in scripts if "python" in path.read_text("utf-8").partition("\n")[0]]
    return sorted([*found, *(CHECKOUT / "training").glob("*.py")])


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "ollama_bridge":
                names = [f"ollama_bridge.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("ollama_bridge.")}
    return found


def layer_of(part: str) -> int:
    for number, layer in enumerate(LAYERS):
        if part in layer:
            return number
    pytest.fail(f"ollama_bridge/{part} is in no layer: add it to LAYERS")


def first_sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].replace("``", "`").removesuffix(".")


def write_map(document: str) -> str:
    """docs/architecture.md with a table of all parts and their folders, by layers."""
    rows = ["| part | what it is |", "|---|---|"]
    for layer in reversed(LAYERS):
        for part in sorted(layer):
            folder = PACKAGE / part / "__init__.py"
            file = folder if folder.is_file() else PACKAGE / f"{part}.py"
            name = f"{part}/" if file == folder else f"{part}.py"
            rows.append(f"| `{name}` | {first_sentence(file)} |")
            for inner in sorted((PACKAGE / part).glob("*/__init__.py")):
                rows.append(f"| `{part}/{inner.parent.name}/` | {first_sentence(inner)} |")
        rows.append("| | |")
    table = "\n".join(rows[:-1])
    return re.sub(
        r"(<!-- parts -->\n).*(<!-- /parts -->)",
        lambda found: f"{found[1]}{table}\n{found[2]}",
        document,
        flags=re.DOTALL,
    )


def test_the_map_is_current() -> None:
    """Of every part there is one line, in its layer."""
    document = ARCHITECTURE.read_text(encoding="utf-8")
    assert "| `pipeline.py` |" in document
    assert document == write_map(document), "run scripts/gen-docs"


def test_imports_go_down_only() -> None:
    """No module imports a higher layer, and no stage imports another stage."""
    for path in modules():
        part = part_of(path)
        if part in ("__init__", "__main__"):
            continue
        for other in imported_parts(path) - {part}:
            if (part, other) in ALLOWED:
                continue
            assert layer_of(other) <= layer_of(part), f"{path}: must not import {other}"
            assert not (part in STAGES and other in STAGES), f"{path}: imports stage {other}"


def test_files_stay_readable_in_one_sitting() -> None:
    """No file grows past 420 lines, and none is a drawer for odds and ends."""
    for path in modules():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 420, path
        assert path.stem not in ("utils", "helpers", "common", "misc"), path


@pytest.mark.parametrize("path", programs(), ids=lambda path: path.name)
def test_programs_import_what_there_is(path: Path) -> None:
    """Many of them run for hours and in no tier: who moves a function hears of them here."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(OURS):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                assert hasattr(module, alias.name) or importlib.util.find_spec(submodule), submodule


def test_light_parts_load_no_torch() -> None:
    """Importing the client, the packaging half or the command line loads no torch."""
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} loads {heavy}'\n"
    )
    names = [f"ollama_bridge.{part}".rstrip(".") for part in TORCH_FREE]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def loaded_by(word: str, *, fails: bool = False) -> set[str]:
    """All modules that a command line of one word imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ollama_bridge", word],
        capture_output=True,
        text=True,
        check=not fails,
    )
    return {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}


def test_help_loads_no_torch() -> None:
    """``ollama-bridge --help`` loads no torch."""
    loaded = loaded_by("--help")
    assert "typer" in loaded
    assert not {"torch", "transformers", "numpy"} & loaded


def test_commands_load_no_command_line_of_a_library() -> None:
    """httpx has one, of click and rich: where they are installed a fifth of every start."""
    loaded = loaded_by("ps", fails=True)
    assert "httpx" in loaded
    assert not {"click", "rich.console", "pygments"} & loaded


def test_stages_that_find_their_work_done_load_no_modelling() -> None:
    """Seconds of every start: adapters and models are imported where they are made."""
    stages = ("train.finetune", "train.distill", "teacher.local", "evaluation.run")
    code = (
        f"import sys, {', '.join(f'ollama_bridge.{stage}' for stage in stages)}; "
        "print([m for m in ('peft', 'transformers.modeling_utils') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_import_does_nothing() -> None:
    """Importing the package reads no environment, opens no file of the user's, starts nothing."""
    code = (
        "import sys\n"
        "def hook(event, args):\n"
        "    if event in ('socket.connect', 'subprocess.Popen'): print(event)\n"
        "sys.addaudithook(hook)\n"
        "import ollama_bridge\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
