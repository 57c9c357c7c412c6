"""Values of JSON and of Python in texts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.data.chats.written_values import read_value, read_values

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_OBJECTS = st.dictionaries(st.text(), _VALUES, max_size=3)


@given(_OBJECTS)
def test_what_json_and_python_write_is_read_alike(value: dict[str, object]) -> None:
    """No value changes on its way through a text."""
    assert read_value(json.dumps(value)) == value
    assert read_value(repr(value)) == value


@given(st.lists(_OBJECTS, min_size=1, max_size=3))
def test_several_are_read_in_whichever_way_they_stand(values: list[dict[str, object]]) -> None:
    """A line each, as a list, or one behind the other."""
    for write in (json.dumps, repr):
        assert read_values("\n".join(map(write, values))) == values
        assert read_values(f"\n{write(values)}\n") == values
    assert read_values(" ".join(map(json.dumps, values))) == values
    assert read_values(", ".join(json.dumps(one, indent=4) for one in values)) == values


@pytest.mark.parametrize(
    "text",
    ["", "{", "{'a': 'it''s'}", "{'a': 'it's'}", "{'a': (1, 2)}", "{'a': {1}}", "{1: 2}", "f(1)",
     "{'a': b'x'}", "{'a': 1j}", "{'a': True, \"b\": true}", "{'a': '\\d'}", "[" * 100_000],
)  # fmt: skip
def test_what_is_neither_is_refused(text: str) -> None:
    """Also what Python would make something else of."""
    with pytest.raises(ValueError, match=r"neither JSON|nested"):
        read_value(text)
