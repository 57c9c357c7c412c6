"""Shows a run's events in TensorBoard: one more reader of what stages tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ollama_bridge.closing import Closing
from ollama_bridge.errors import MissingExtraError
from ollama_bridge.reporting import Event, Metric, Progress


class TensorBoardReporter(Closing):
    """Writes losses, speed, memory and scores as scalars named ``STAGE/NAME``.

    Args:
        folder: For ``tensorboard --logdir``; made if missing.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as exc:
            raise MissingExtraError("tensorboard", "tensorboard") from exc
        self._writer = SummaryWriter(str(folder))
        self._live: set[str] = set()

    def emit(self, event: Event) -> None:
        """Write the numbers of one event."""
        match event:
            case Progress(stage=stage, done=step, fields=values):
                self._live |= {f"{stage}/{name}" for name in values}
                self._write(stage, values, step)
            case Metric(stage=stage, step=step, values=values):
                # The loss of a step was told with its progress.
                kept = {n: v for n, v in values.items() if f"{stage}/{n}" not in self._live}
                self._write(stage, kept, step)
            case _:
                return

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._writer.close()

    def _write(self, stage: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{stage}/{name}", value, step)
