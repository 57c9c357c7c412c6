"""Where a model lies in a registry: ``REGISTRY/NAMESPACE/NAME:TAG``, as Ollama names it too."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from ollama_bridge.errors import ConfigError
from ollama_bridge.modelfile import check_tag

_FORM = "write it as REGISTRY/NAMESPACE/NAME:TAG, such as registry.example.com/team/sentiment:1.0"
# A part of a repository's name (OCI distribution specification, "Pulling manifests").
_REPOSITORY_PART = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*")
# Docker Hub is called by the name of a web page.
_ORIGINS = {
    "docker.io": "https://registry-1.docker.io",
    "index.docker.io": "https://registry-1.docker.io",
}


@dataclass(frozen=True)
class RegistryReference:
    """One tag of one registry.

    Attributes:
        host: Host, with its port where it has one.
        repository: Namespace and name: ``team/sentiment``.
        plain: Whether it is spoken to without encryption.
    """

    host: str
    repository: str
    tag: str
    plain: bool

    @property
    def origin(self) -> str:
        """Scheme and host of every request."""
        return _ORIGINS.get(self.host.lower(), f"{'http' if self.plain else 'https'}://{self.host}")

    @property
    def name(self) -> str:
        """The tag that the model has in a daemon which pulled it."""
        return f"{self.host}/{self.repository}:{self.tag}"

    @property
    def loopback(self) -> bool:
        """Whether the registry is on this machine."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return self.name


def parse_registry_reference(text: str, *, insecure: bool = False) -> RegistryReference:
    """Read ``REGISTRY/NAMESPACE/NAME[:TAG]``; ``https://`` or ``http://`` may stand before it.

    Plain http is spoken to registries of this machine, and to others only where ``insecure`` asks
    for it.

    Raises:
        ConfigError: naming the part that is wrong.
    """
    scheme, separator, rest = text.rpartition("://")
    if "@" in text:
        # What stands before it may be a password, so the text is not repeated.
        raise ConfigError("a registry reference holds no '@'", hint=_FORM)
    if separator and scheme.lower() not in ("http", "https"):
        raise ConfigError(f"{text!r}: {scheme!r} is neither http nor https", hint=_FORM)
    if rest.count("/") > 2:
        raise ConfigError(
            f"{text!r} has more than the three parts of Ollama's names",
            hint=f"{_FORM} (GitLab: GROUP/PROJECT, no subgroup)",
        )
    # Before the rules of a tag, by which the host of Docker's usual HOST/NAME would be a namespace.
    if rest.count("/") < 2:
        raise ConfigError(f"{text!r} does not name registry, namespace and model", hint=_FORM)
    full, _, tag = check_tag(rest).rpartition(":")
    host, namespace, name = full.split("/")
    plain = insecure or (scheme.lower() == "http" if separator else is_loopback(host))
    if plain and not insecure and not is_loopback(host):
        raise ConfigError(
            f"requests to {host} would not be encrypted",
            hint=f"use https://{rest}, or allow it with --insecure",
        )
    return RegistryReference(host, f"{namespace}/{name}", tag, plain)


def check_repository(reference: RegistryReference) -> None:
    """Refuse a repository that no registry but Ollama's can have, before it is sent anything.

    Raises:
        ConfigError: a capital letter, or a sign where none may be.
    """
    parts = reference.repository.split("/")
    if all(map(_REPOSITORY_PART.fullmatch, parts)):
        return
    lower = replace(reference, repository=reference.repository.lower())
    is_better = all(map(_REPOSITORY_PART.fullmatch, lower.repository.split("/")))
    rule = "lower-case letters and digits, with . _ - between them"
    raise ConfigError(
        f"{reference}: names in registries consist of {rule}",
        hint=f"write {lower}" if is_better else "choose another name",
    )


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is this machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
