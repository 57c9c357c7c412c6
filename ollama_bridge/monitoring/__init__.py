"""Watches a daemon: what is loaded, what it does, how the machine bears it, and what is wrong."""

from ollama_bridge.monitoring.observer import Observer
from ollama_bridge.monitoring.prometheus import Exporter, exposition
from ollama_bridge.monitoring.snapshot import GPU, Loaded, Machine, Runner, Snapshot

__all__ = ["GPU", "Exporter", "Loaded", "Machine", "Observer", "Runner", "Snapshot", "exposition"]
