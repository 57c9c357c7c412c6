"""Names of models in registries."""

from __future__ import annotations

import pytest

from ollama_bridge.errors import ConfigError
from ollama_bridge.registry.reference import (
    check_repository,
    is_loopback,
    parse_registry_reference,
)


@pytest.mark.parametrize(
    ("text", "origin", "name"),
    [
        ("ghcr.io/team/m:1", "https://ghcr.io", "ghcr.io/team/m:1"),
        ("ghcr.io/team/m", "https://ghcr.io", "ghcr.io/team/m:latest"),
        ("localhost:5000/team/m:1", "http://localhost:5000", "localhost:5000/team/m:1"),
        ("127.0.0.1:5000/team/m", "http://127.0.0.1:5000", "127.0.0.1:5000/team/m:latest"),
        ("https://localhost:5000/team/m:1", "https://localhost:5000", "localhost:5000/team/m:1"),
        ("HTTP://localhost:5000/a/b", "http://localhost:5000", "localhost:5000/a/b:latest"),
        # Docker Hub, as everybody writes it.
        ("docker.io/me/m:1", "https://registry-1.docker.io", "docker.io/me/m:1"),
        ("Index.docker.io/me/m", "https://registry-1.docker.io", "Index.docker.io/me/m:latest"),
    ],
)
def test_what_a_reference_means(text: str, origin: str, name: str) -> None:
    """Plain http is spoken to this machine only, and to it unless https is asked for."""
    reference = parse_registry_reference(text)
    assert (reference.origin, reference.name, str(reference)) == (origin, name, name)


def test_insecure_speaks_plain_http() -> None:
    """To another machine only where it is asked for."""
    with pytest.raises(ConfigError, match="not be encrypted") as caught:
        parse_registry_reference("http://box:5000/team/m:1")
    assert "--insecure" in (caught.value.hint or "")
    reference = parse_registry_reference("box:5000/team/m:1", insecure=True)
    assert reference.origin == "http://box:5000"
    assert not reference.loopback


@pytest.mark.parametrize(
    "text",
    [
        "m",
        "team/m:1",
        "ghcr.io/a/team/m:1",
        "ghcr.io/../m:1",
        "ghcr.io/team/..:1",
        "ghcr.io/team/.m:1",
        "ghcr.io/team/m:../../etc/passwd",
        "ghcr.io/team/m:1\n",
        "ghcr.io/team/m?x=1",
        "ghcr.io/team/m#x",
        "ghcr.io//m:1",
        "/team/m:1",
        "ftp://ghcr.io/team/m:1",
        "ghcr.io/team/m@sha256:" + "0" * 64,
        "",
    ],
)
def test_what_is_no_reference(text: str) -> None:
    """Anything that could mean another path or host is refused."""
    with pytest.raises(ConfigError):
        parse_registry_reference(text)


@pytest.mark.parametrize("text", ["us-docker.pkg.dev/a/b/c:1", "https://gitlab.box/a/b/c/d"])
def test_more_parts_than_ollama_has(text: str) -> None:
    """Registries have them; the hint says what to do there."""
    with pytest.raises(ConfigError, match="three parts") as caught:
        parse_registry_reference(text)
    assert "REGISTRY/NAMESPACE/NAME:TAG" in (caught.value.hint or "")
    assert "GitLab" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["localhost:5000/m:1", "ghcr.io/m", "https://box:5000/m:1", "m:1"])
def test_fewer_parts_than_ollama_has(text: str) -> None:
    """Docker's usual two, say: the hint is the form of this name, not that of a local tag."""
    with pytest.raises(ConfigError, match="does not name registry, namespace and model") as caught:
        parse_registry_reference(text)
    assert "REGISTRY/NAMESPACE/NAME:TAG" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["team/m", "my-org/a.b_c__d---e", "0/1"])
def test_repositories_that_registries_have(name: str) -> None:
    """Whatever the host and tag."""
    check_repository(parse_registry_reference(f"ghcr.io/{name}:V1_x"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MyOrg/Model", "write ghcr.io/myorg/model:V1"),
        ("team/m-", "another"),
        ("a/b_-c", "another"),
        ("A_-b/m", "another"),  # in lower case, too
    ],
)
def test_repositories_that_no_registry_has(name: str, hint: str) -> None:
    """Capital letters, which names of organisations have, or odd signs; the tag keeps its own."""
    with pytest.raises(ConfigError, match="lower-case letters") as caught:
        check_repository(parse_registry_reference(f"ghcr.io/{name}:V1"))
    assert hint in (caught.value.hint or "")


def test_a_password_in_a_reference_is_not_repeated() -> None:
    """Whoever writes one there does not find it in a log."""
    with pytest.raises(ConfigError) as caught:
        parse_registry_reference("https://ada:hunter2@ghcr.io/team/m:1")
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.2:1", True),
        ("[::1]:5000", True),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("10.0.0.1:5000", False),
        ("", False),
    ],
)
def test_what_is_this_machine(host: str, local: bool) -> None:
    """By address, not by how a name begins."""
    assert is_loopback(host) is local
