"""Trains one model in this process."""

from __future__ import annotations

from pathlib import Path

from mnist_sweep.config.objective import Objective

ACCURACY = Objective("val_accuracy", "max")


def train(trainer, config, folder: Path, *, epochs=None, stop=lambda epoch: "", objective=ACCURACY, ending="", **job):
    """Trains a trial; returns its outcome and its reports."""
    from mnist_sweep.training.fit import Job

    reports: list[dict[str, float]] = []
    outcome = trainer.train(
        Job(config, objective, epochs or config.training.epochs, folder, stop=ending, **job),
        report=lambda epoch, metrics: reports.append({"epoch": epoch, **metrics}),
        stop=stop,
    )
    return outcome, reports


def timeless(reports: list[dict[str, float]]) -> list[dict[str, float]]:
    """Returns reports without the times, which differ between equal trials."""
    return [{k: v for k, v in report.items() if k != "epoch_seconds"} for report in reports]
