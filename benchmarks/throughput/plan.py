"""What one process of a peer is given to do."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.throughput.shapes import Setting


@dataclass(frozen=True)
class Plan:
    """One system's work.

    Attributes:
        settings: The trials.
        epochs: Of each trial.
        data: An `.npz` with x_train, y_train, x_val and y_val; the images as bytes.
        cores: Of the machine.
        gpus: Of the machine.
        trials_per_gpu: Side by side, where the system leaves that to its user.
    """

    settings: list[Setting]
    epochs: int
    data: str
    cores: int
    gpus: int
    trials_per_gpu: int

    def write(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Reads what `write` wrote."""
        content = json.loads(path.read_text())
        content["settings"] = [
            Setting(**{**one, "filters": tuple(one["filters"]), "units": tuple(one["units"])})
            for one in content["settings"]
        ]
        return cls(**content)
