"""The Modelfile value: what its text carries, what its request carries, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.errors import ConfigError, ModelfileError
from ollama_bridge.modelfile import Modelfile, check_tag

NASTY = "ab\"'#{}[]$\\ \t\n\r\u00a0\u200d\u200bé你👍\u3000\x00"
texts = st.one_of(st.none(), st.text(alphabet=NASTY, max_size=12), st.text(max_size=20))
stops = st.lists(st.text(alphabet=NASTY, min_size=1, max_size=6), max_size=3).map(tuple)


@st.composite
def modelfiles(draw: st.DrawFn) -> Modelfile:
    """Any value that can be made."""
    parameters: dict[str, object] = {
        "temperature": draw(st.floats(0, 2, width=32)),
        "num_predict": draw(st.integers(-2, 10_000)),
        "use_mmap": draw(st.booleans()),
        "stop": draw(stops),
    }
    return Modelfile(
        from_=draw(st.sampled_from(["model.gguf", "./a b/m.gguf", '"q".gguf', "tag:latest"])),
        template=draw(texts),
        system=draw(texts),
        license=draw(texts),
        renderer=draw(st.sampled_from([None, "qwen3-coder"])),
        parser=draw(st.sampled_from([None, "deepseek3.1"])),
        parameters=parameters,  # type: ignore[arg-type]
    )


@given(modelfiles())
def test_text_is_refused_or_read_back_equal(modelfile: Modelfile) -> None:
    """parse(to_text(m)) == m for every m that to_text accepts."""
    try:
        text = modelfile.to_text()
    except ModelfileError:
        assert modelfile.text_differences()
        return
    assert not modelfile.text_differences()
    assert Modelfile.parse(text) == modelfile


@given(modelfiles())
def test_request_is_exact(modelfile: Modelfile) -> None:
    """The API request carries every value as it is, also those that the text cannot."""
    request = modelfile.to_request("t:latest", blob_digest="sha256:00")
    assert request.get("system") == modelfile.system
    assert request.get("template") == modelfile.template
    assert request.get("renderer") == modelfile.renderer
    assert request.get("parser") == modelfile.parser
    assert request["files"] == {"model.gguf": "sha256:00"}
    assert tuple(request["parameters"].get("stop", ())) == modelfile.parameters.get("stop", ())


@pytest.mark.parametrize(
    ("system", "reason"),
    [
        ("hard\u00a0space", "U+00A0"),
        ("family 👩\u200d👧", "U+200D"),
        ('a line """\nand more', '"""'),
        ("nul\x00", "U+0000"),
    ],
)
def test_text_names_what_it_cannot_carry(system: str, reason: str) -> None:
    """The refusal names SYSTEM and the reason, and points at the API."""
    with pytest.raises(ModelfileError, match="SYSTEM") as caught:
        Modelfile("m.gguf", system=system).to_text()
    assert reason in caught.value.message
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    "system", ["plain", '"quoted"', 'ends "', '""', " spaces ", "two\nlines\r\n", '"""', "#no"]
)
def test_text_carries_what_it_can(system: str) -> None:
    """Quotes, white space and comment signs survive the text."""
    modelfile = Modelfile("m.gguf", system=system)
    assert Modelfile.parse(modelfile.to_text()).system == system


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temprature": 0.1}, "did you mean temperature"),
        ({"temperature": "hot"}, "must be a number, not 'hot'"),
        ({"temperature": True}, "must be a number"),
        ({"temperature": float("nan")}, "must be a number"),
        ({"temperature": 1e39}, "must be a number"),
        ({"num_predict": 1.5}, "must be a whole number"),
        ({"num_ctx": 2**64}, "must be a whole number"),
        ({"stop": [1]}, "must be texts"),
        ({"stop": ""}, "must be texts"),
        ({"use_mmap": 1}, "must be true or false"),
        ({"typical_p": 0.5}, "no parameter 'typical_p'"),
        ({"mirostat": 1}, "no parameter 'mirostat'"),
        ({"stop": "\ud800"}, "surrogate"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, object], message: str) -> None:
    """Names and types that a daemon would only reject when run are rejected at once."""
    with pytest.raises(ModelfileError, match=message):
        Modelfile("m.gguf", parameters=parameters)  # type: ignore[arg-type]


def test_parameters_take_the_form_that_ollama_keeps() -> None:
    """Floats are the shortest decimal of 32 bits, one stop is a tuple, an empty one is none."""
    modelfile = Modelfile(
        "m.gguf",
        parameters={"temperature": 0.30000000001, "num_ctx": 512.0, "stop": "x"},  # type: ignore[dict-item]
    )
    assert modelfile.parameters == {"temperature": 0.3, "num_ctx": 512, "stop": ("x",)}
    assert Modelfile("m", parameters={"stop": ()}) == Modelfile("m")


def test_empty_text_counts_as_absent() -> None:
    """An empty SYSTEM is none, as Ollama takes it."""
    assert Modelfile("m", system="", template="", license="") == Modelfile("m")


def test_from_is_needed() -> None:
    """A Modelfile without FROM is refused."""
    with pytest.raises(ModelfileError, match="FROM"):
        Modelfile(" ")


@pytest.mark.parametrize("path", ["models/*.gguf", "~/m.gguf", "a[1].gguf"])
def test_from_that_ollama_would_expand_is_refused(path: str) -> None:
    """File patterns and home folders in FROM would be another file to Ollama."""
    with pytest.raises(ModelfileError, match="FROM"):
        Modelfile(path).to_text()


@pytest.mark.parametrize("name", ["Qwen", "a b", "x\nSYSTEM y", "../x", "-x"])
def test_what_is_no_code_of_ollamas_own(name: str) -> None:
    """Ollama takes any name and fails at the first question."""
    with pytest.raises(ModelfileError, match="RENDERER"):
        Modelfile("model.gguf", renderer=name)


@pytest.mark.parametrize(
    ("tag", "full"),
    [
        ("name", "name:latest"),
        ("name:f16", "name:f16"),
        ("me/name", "me/name:latest"),
        ("host:5000/me/name:1.0", "host:5000/me/name:1.0"),
        ("_x.y-z:_t.1", "_x.y-z:_t.1"),
    ],
)
def test_legal_tags(tag: str, full: str) -> None:
    """Tags by Ollama's grammar come back with their tag part."""
    assert check_tag(tag) == full


@pytest.mark.parametrize(
    "tag",
    [
        *("", ":x", "x:", "a b", "näme", "a/b/c/d", "-x", "x:y:z", "n.s/x"),
        *("x" * 81, "x:" + "y" * 81, "/x", "x/", "../x", "x\n"),
    ],
)
def test_illegal_tags(tag: str) -> None:
    """Tags that Ollama refuses are refused before anything is sent."""
    with pytest.raises(ConfigError, match="not a valid tag name"):
        check_tag(tag)
