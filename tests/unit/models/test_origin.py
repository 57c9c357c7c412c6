"""What a GGUF says of where its model comes from, of starts that are no GGUF."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from fakes.adapters import build_adapter, change_settings
from fakes.ggufs import metadata_of, rewrite
from fakes.models import build_tiny_checkpoint
from fakes.trainable import tiny_corpus

from ollama_bridge.conversion import convert, convert_adapter
from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.models.reference.values import with_reference_values
from ollama_bridge.models.sources.given_template import with_chat_template
from ollama_bridge.models.sources.merge import base_with_values
from ollama_bridge.models.sources.origin import origin_facts, repository_of
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.storage.artifacts import Checkpoint, Work
from ollama_bridge.storage.drafts import open_draft

CARD = "---\nlicense: mit\nbase_model: some-org/older-base\n---\n"


def keys_of(checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    """What its GGUF says."""
    return metadata_of(convert(checkpoint, type="f32", out_dir=folder).gguf_path)


def with_values(checkpoint: Checkpoint, folder: Path, system: str | None = None) -> Checkpoint:
    """As ``package`` converts it."""
    return with_reference_values(checkpoint, system=system, noise_types=(), out_dir=folder)


def cached(folder: Path, tmp_path: Path) -> Path:
    """A checkpoint as the hub's client keeps some-org/some-model, with its card."""
    copy = tmp_path / "hub" / "models--some-org--some-model" / "snapshots" / "0f"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text(CARD)
    return copy


def trained(start: Checkpoint, folder: Path) -> Checkpoint:
    """A checkpoint as a training leaves it, and another one that began with that."""
    corpus = tiny_corpus(folder / "corpus")
    inputs = {"base": start.digest}
    work = Work("checkpoint", "finetune", 1, inputs=inputs, settings={"lr": 1.0})
    with open_draft(folder / "tuned", work) as draft:
        build_tiny_checkpoint(draft.path, seed=1)
        return Checkpoint(folder / "tuned", draft.commit(origin_facts(start, corpus)))


def test_what_is_trained_names_the_repository_that_it_began_as(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Name and licence of the start, the texts, a digest of the recipe; so does a grandchild."""
    start = resolve_model(str(cached(tiny_checkpoint, tmp_path)), cache_dir=tmp_path / "cache")
    own = keys_of(start, tmp_path / "own")
    assert own["general.name"] == "some-model"
    assert own["general.base_model.0.name"] == "older-base"
    assert "ollama_bridge.recipe.sha256" not in own
    tuned = trained(start, tmp_path / "a")
    for made, folder in ((tuned, tmp_path / "b"), (trained(tuned, tmp_path / "c"), tmp_path / "d")):
        keys = keys_of(made, folder)
        assert keys["general.name"] == "some-model finetune"
        assert keys["general.license"] == "mit"
        assert keys["general.base_model.count"] == 1
        assert keys["general.base_model.0.name"] == "some-model"
        assert keys["general.base_model.0.organization"] == "some-org"
        assert keys["general.base_model.0.repo_url"] == "https://huggingface.co/some-org/some-model"
        assert keys["general.dataset.0.name"] == "some-texts"
        assert keys["ollama_bridge.recipe.sha256"] == digest_text(canonical_json({"lr": 1.0}))


def test_a_package_of_what_was_trained_says_so(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """What is packaged is a copy with values of its own, of one with another template at times."""
    start = resolve_model(str(cached(tiny_checkpoint, tmp_path)), cache_dir=tmp_path / "cache")
    tuned = trained(start, tmp_path)
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    given = with_chat_template(tuned, template, cache_dir=tmp_path / "cache")
    own = keys_of(tuned, tmp_path / "own")
    for number, source in enumerate((tuned, given)):
        folder = tmp_path / str(number)
        copy = with_values(source, folder / "values")
        for made in (copy, with_values(copy, folder / "again", system="Be brief.")):
            keys = keys_of(made, folder / made.digest)
            assert keys["general.name"] == own["general.name"] == "some-model finetune"
            assert keys["ollama_bridge.checkpoint.stage"] == "finetune"
            assert keys["ollama_bridge.checkpoint.digest"] == made.digest
            for name in ("ollama_bridge.recipe.sha256", "ollama_bridge.input.base"):
                assert keys[name] == own[name]
    keys = keys_of(with_values(start, tmp_path / "of-start"), tmp_path / "of-start-gguf")
    assert keys["general.name"] == "some-model"
    assert "ollama_bridge.recipe.sha256" not in keys


def test_a_start_without_a_name_hands_on_its_own_base(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """A folder of the user's is nobody's business; what its card names is."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "private-name")
    (folder / "README.md").write_text(CARD)
    start = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    keys = keys_of(trained(start, tmp_path), tmp_path / "gguf")
    assert keys["general.base_model.0.name"] == "older-base"
    assert not [key for key, value in keys.items() if "private-name" in str(value)]


def test_an_adapter_file_names_the_base_that_it_goes_on(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Also where that is no GGUF."""
    base = resolve_model(str(cached(tiny_checkpoint, tmp_path)), cache_dir=tmp_path / "cache")
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    keys = metadata_of(convert_adapter(adapter, base, out_dir=tmp_path / "gguf").gguf_path)
    assert keys["general.name"] == "some-model adapter"
    assert keys["general.base_model.0.organization"] == "some-org"


@pytest.mark.parametrize("is_trained", [False, True])
def test_a_base_that_is_served_below_its_adapter_is_called_what_it_is(
    tiny_checkpoint: Path, tmp_path: Path, *, is_trained: bool
) -> None:
    """And not the merge, whose reference values it has."""
    base = resolve_model(str(cached(tiny_checkpoint, tmp_path)), cache_dir=tmp_path / "cache")
    if is_trained:
        base = trained(base, tmp_path)
    adapter = build_adapter(base.path, tmp_path / "adapter")
    merged = resolve_model(str(adapter), base=str(base.path), cache_dir=tmp_path / "cache")
    whole = with_values(merged, tmp_path / "values")
    below = base_with_values(base, whole, out_dir=tmp_path / "below")
    keys, own = keys_of(below, tmp_path / "gguf"), keys_of(base, tmp_path / "own")
    assert keys["general.name"] == own["general.name"]
    assert "ollama_bridge.input.adapter" not in keys
    stage = "finetune" if is_trained else "reference"
    assert keys["ollama_bridge.checkpoint.stage"] == stage
    assert below.facts["reference_key"] == whole.facts["reference_key"]


@pytest.mark.parametrize("carded", [True, False], ids=["in its card", "in its config"])
@pytest.mark.parametrize("named", ["models/acme-payroll-llama", "{base}", "base"])
def test_what_an_adapter_calls_its_base_stays_here(
    tmp_path: Path, named: str, carded: bool
) -> None:
    """A folder of where it was trained looks like a repository; nor is it handed on."""
    base = build_tiny_checkpoint(tmp_path / "base")
    adapter = build_adapter(base, tmp_path / "adapter")
    (adapter / "README.md").unlink(missing_ok=True)
    name = named.format(base=base)
    change_settings(adapter, base_model_name_or_path=name)
    if carded:
        (adapter / "README.md").write_text(f"---\nbase_model: {name}\nlicense: mit\n---\n")
    merged = resolve_model(str(adapter), base=str(base), cache_dir=tmp_path / "cache")
    below = base_with_values(
        resolve_model(str(base), cache_dir=tmp_path / "cache"),
        with_values(merged, tmp_path / "values"),
        out_dir=tmp_path / "below",
    )
    for number, made in enumerate((merged, trained(merged, tmp_path), below)):
        keys = keys_of(made, tmp_path / str(number))
        assert [key for key in keys if key.startswith("general.base_model")] == []
        assert keys.get("general.license") == ("mit" if carded and made is not below else None)


@pytest.mark.parametrize("carded", [True, False], ids=["with its card", "without one"])
def test_the_base_of_an_adapter_is_the_repository_that_was_found_for_it(
    tiny_checkpoint: Path, tmp_path: Path, carded: bool
) -> None:
    """Whatever it was called where the adapter was trained."""
    base = cached(tiny_checkpoint, tmp_path)
    adapter = build_adapter(base, tmp_path / "adapter")
    change_settings(adapter, base_model_name_or_path="models/acme-payroll-llama")
    (adapter / "README.md").unlink(missing_ok=True)
    if carded:
        (adapter / "README.md").write_text("---\nbase_model: models/acme-payroll-llama\n---\n")
    merged = resolve_model(str(adapter), base=str(base), cache_dir=tmp_path / "cache")
    for made in (merged, with_values(merged, tmp_path / "values"), trained(merged, tmp_path)):
        keys = keys_of(made, tmp_path / made.digest)
        assert keys["general.base_model.count"] == 1
        assert keys["general.base_model.0.name"] == "some-model"
        assert keys["general.base_model.0.organization"] == "some-org"
        assert keys["general.base_model.0.repo_url"].endswith("/some-org/some-model")
        assert "acme" not in str(keys)


@pytest.mark.parametrize("carded", [True, False], ids=["in its card", "in its config"])
def test_an_adapter_of_the_hub_names_its_base(
    tiny_checkpoint: Path, tmp_path: Path, carded: bool
) -> None:
    """All can read that there; the base itself may be a folder here."""
    built = build_adapter(tiny_checkpoint, tmp_path / "built")
    adapter = tmp_path / "hub" / "models--some-org--some-lora" / "snapshots" / "0f"
    shutil.copytree(built, adapter)
    change_settings(adapter, base_model_name_or_path="some-org/some-base")
    (adapter / "README.md").unlink(missing_ok=True)
    if carded:
        (adapter / "README.md").write_text("---\nbase_model: some-org/some-base\n---\n")
    merged = resolve_model(str(adapter), base=str(tiny_checkpoint), cache_dir=tmp_path / "cache")
    keys = keys_of(merged, tmp_path / "gguf")
    assert keys["general.base_model.0.name"] == "some-base"
    assert keys["general.base_model.0.organization"] == "some-org"


def test_the_card_of_an_adapter_keeps_the_path_of_its_base(tmp_path: Path) -> None:
    """Peft writes that as a tag, too; nor does what is trained from the model inherit it."""
    base = build_tiny_checkpoint(tmp_path / "private-name")
    adapter = build_adapter(base, tmp_path / "adapter")
    assert f"base_model:adapter:{base}" in (adapter / "README.md").read_text()
    merged = resolve_model(str(adapter), cache_dir=tmp_path / "cache")
    tuned = trained(merged, tmp_path)
    # As a training of before kept it.
    tuned.manifest.facts["origin"]["tags"].append(f"base_model:adapter:{base}")
    for made, folder in ((merged, tmp_path / "a"), (tuned, tmp_path / "b")):
        keys = keys_of(made, folder)
        assert keys["general.tags"] == ["lora", "transformers", "text-generation"]
        assert not [key for key, value in keys.items() if "private-name" in str(value)]


def test_no_file_has_the_path_of_a_base(tmp_path: Path) -> None:
    """Though what it is made of says it: the facts of a training, a GGUF, an adapter's base."""
    start = resolve_model(str(build_tiny_checkpoint(tmp_path / "x")), cache_dir=tmp_path / "cache")
    convert(start, type="f32", out_dir=tmp_path / "a")
    tag = "base_model:adapter:/home/somebody/base"
    tuned = trained(start, tmp_path)
    tuned.manifest.facts["origin"] = {"tags": [tag]}
    source = tmp_path / "x.gguf"
    said = {"general.tags": [tag, "text-generation"]}
    rewrite(tmp_path / "a" / "model.gguf", source, metadata=lambda keys: keys.update(said))
    imported = resolve_model(str(source), cache_dir=tmp_path / "cache")
    for made, folder in ((tuned, tmp_path / "b"), (imported, tmp_path / "c")):
        gguf = convert(made, type="f32", out_dir=folder)
        assert tag not in metadata_of(gguf.gguf_path).get("general.tags", [])
    adapter = build_adapter(imported.path, tmp_path / "adapter")
    lora = convert_adapter(adapter, imported, out_dir=tmp_path / "d")
    assert metadata_of(lora.gguf_path)["general.tags"] == ["text-generation"]


@pytest.mark.parametrize("carded", [True, False], ids=["in its card", "in its config"])
def test_a_folder_above_is_no_repository(
    tiny_checkpoint: Path, tmp_path: Path, carded: bool
) -> None:
    """Though ``../base`` looks like one, with ``..`` as its owner."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    (adapter / "README.md").unlink(missing_ok=True)
    if carded:
        (adapter / "README.md").write_text("---\nbase_model: ../base\n---\n")
    else:
        change_settings(adapter, base_model_name_or_path="../base")
    merged = resolve_model(str(adapter), base=str(tiny_checkpoint), cache_dir=tmp_path / "cache")
    gguf = convert(merged, type="f32", out_dir=tmp_path / "gguf")
    assert "general.base_model.count" not in metadata_of(gguf.gguf_path)


@pytest.mark.parametrize(
    ("source", "name", "organization"),
    [
        ("/home/a/.cache/huggingface/hub/models--gpt2/snapshots/0f", "gpt2", None),
        ("C:\\hub\\models--org--a-b\\snapshots\\0f\\", "a-b", "org"),
        ("/srv/models--org--name", None, None),
        ("ollama:smollm2:135m", None, None),
    ],
)
def test_a_repository_is_told_by_the_hubs_cache(
    source: str, name: str | None, organization: str | None
) -> None:
    """Not by anything else."""
    found = repository_of({"source": source})
    assert (found.get("name"), found.get("organization")) == (name, organization)
