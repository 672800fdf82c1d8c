"""Plots of runs: functions that take frames or arrays and return a matplotlib Figure."""

from mnist_sweep.results.plots.confusion import confusion_matrix
from mnist_sweep.results.plots.curves import all_learning_curves, trial_learning_curves
from mnist_sweep.results.plots.effects import importance, marginal_effects, pairwise_effects
from mnist_sweep.results.plots.history import optimisation_history, slot_timeline
from mnist_sweep.results.plots.images import digits_and_classes, first_layer_filters, worst_mistakes
from mnist_sweep.results.plots.parallel import parallel_coordinates
from mnist_sweep.results.plots.pareto import pareto_front
from mnist_sweep.results.plots.tested import label_scores, of_test, precision_recall, predicted_and_true, residuals, roc

__all__ = [
    "all_learning_curves",
    "confusion_matrix",
    "digits_and_classes",
    "first_layer_filters",
    "importance",
    "label_scores",
    "marginal_effects",
    "of_test",
    "optimisation_history",
    "pairwise_effects",
    "parallel_coordinates",
    "pareto_front",
    "precision_recall",
    "predicted_and_true",
    "residuals",
    "roc",
    "slot_timeline",
    "trial_learning_curves",
    "worst_mistakes",
]
