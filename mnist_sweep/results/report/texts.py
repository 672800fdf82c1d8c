"""Texts that are the same in every report: on algorithms, statuses, objectives, and how to read the plots."""

from __future__ import annotations

# What each search does.
ALGORITHMS = {
    "random": "values drawn at random, each trial independently of the others",
    "grid": "every combination once",
    "tpe": "draws values that good trials had and bad ones did not (tree-structured Parzen estimator)",
    "gp": "a Gaussian process predicts the score of untried values, and the most promising ones are tried",
    "cmaes": "the evolution strategy CMA-ES",
    "asha": "stops a trial early unless it is among the best after the same number of epochs (successive halving)",
    "median": "stops a trial that is worse than the median of the others after the same number of epochs",
    "hyperband": "rounds of short trials, the best of which continue",
    "bayesian": "a Gaussian process predicts the score of untried values, and the most promising ones are tried",
    "pbt": "population based training: bad trials continue from copies of good ones, with changed hyperparameters",
    "nsga2": "a genetic algorithm for several objectives",
    "none": "nothing is searched: one run",
}
# How a trial ended.
STATUSES = {
    "completed": "trained to the last epoch, or until it stopped improving",
    "stopped": "stopped early by the search, or because the budget was used up",
    "diverged": "its loss became NaN or infinite; the best epoch before that counts",
    "failed": "has no result",
    "refused": "not trained, because its model cannot be built or would exceed the limits",
    "running": "still training",
}
# What an objective measures.
MEASURES = {
    "val_accuracy": "the share of the validation data that the model gets right",
    "val_loss": "how wrong the model's predictions are on the validation data",
    "val_auc": "how often the model ranks a positive row of the validation data above a negative one",
    "val_mae": "how far the model's predictions are off on average, on the validation data",
    "val_r2": "the share of the variance of the validation data that the model explains",
    "accuracy": "the share of the training data that the model gets right",
    "loss": "how wrong the model's predictions are on the training data",
    "epoch_seconds": "the seconds that an epoch takes",
    "parameters": "the number of the model's weights",
    "latency": "the seconds that one prediction takes",
}
# For each plot, a heading and how to read it.
TEXTS = {
    "history": (
        "Optimization history",
        "Each mark is a trial, from the first to the last. The line is the best score so far. If it rises early and "
        "then stays flat, more trials would probably have gained little.",
    ),
    "own_curves": (
        "The trial's learning curves",
        "The metrics after every epoch, on the training and the validation data. If the training curve "
        "still improves while the other one gets worse, the model memorizes the training data.",
    ),
    "curves": (
        "Learning curves",
        "Each line is a trial: its score after every epoch, which is one pass through the training data. A line that "
        "ends early was stopped there. A line that still improves at its end might have gained from more epochs. If a "
        "trial still improves on the training data but no longer on the validation data, it is overfitting: the "
        "model memorizes the training data.",
    ),
    "importance": (
        "Hyperparameter importance",
        "How much each hyperparameter decides whether a trial is among the best: how far its values in the best trials "
        "differ from its values in all trials (PED-ANOVA; the bars add up to 1). The thin lines are 90 % intervals: "
        "the range for other trials of the same search. If a line reaches down to nearly 0, this sweep cannot tell "
        "whether the hyperparameter matters.",
    ),
    "effects": (
        "Hyperparameter effects",
        "Each point is a trial: its score against the value of one hyperparameter, whatever the others were. If the "
        "points rise or fall, the value matters. A search tries promising values more often, so good regions have many "
        "points.",
    ),
    "pair": (
        "Hyperparameter interaction",
        "The score over {pair}, the two most important hyperparameters. If the good values of one depend on the other, "
        "choose them together.",
    ),
    "pareto": (
        "Pareto front",
        "The marked trials are the Pareto front: no other trial is at least as good in {objectives} and better in one. "
        "Along the front, a gain in one objective costs something in another. Which trade-off is worth it is your "
        "choice.",
    ),
    "timeline": (
        "Timeline",
        "Each row is a slot that runs one trial after another: a GPU, a share of one, or some CPU cores. Each bar is a "
        "trial. In the gaps, the slot was idle.",
    ),
    "confusion": (
        "Confusion matrix",
        "Which classes the winner confuses: each row is a true class, each column a predicted class, counted on the "
        "test data. The diagonal is correct. "
        "A large number off the diagonal is a pair of classes that the model confuses.",
    ),
    "precision_recall": (
        "Precision and recall",
        "For every threshold on the winner's probability, on the test rows: recall is the share of the positive rows "
        "that it finds, precision the share of those that it finds that are positive. Choose a threshold by what a "
        "miss and a false alarm cost. The dots show the usual threshold, 0.5.",
    ),
    "roc": (
        "ROC curve",
        "The share of the positive rows that the winner finds, against the share of the negative ones that it takes "
        "for positive, for every threshold, on the test rows. The area under the curve (AUC) is how often it ranks a "
        "positive row above a negative one.",
    ),
    "label_scores": (
        "Scores of each label",
        "How well the winner predicts each label, on the test rows; the number of rows that have it is in brackets. "
        "Precision: the share of the predicted labels that are right. Recall: the share of the true labels that were "
        "predicted. F1 combines both.",
    ),
    "predicted_and_true": (
        "Predicted and true values",
        "Each point is a test row, in the units of the data: on the dotted line, the winner's prediction is exact. "
        "Points far from it are its largest errors.",
    ),
    "residuals": (
        "Residuals",
        "How far the true value is above the predicted one, against the predicted one, for each test row. Without a "
        "pattern, the model has learned what there is. A slope, a curve or a funnel means that it is wrong in a way "
        "that a better model, or another target such as the logarithm, could avoid.",
    ),
    "mistakes": (
        "Worst mistakes",
        "The test images that the winner got wrong with the highest confidence. Some are hard for people too, and a "
        "few may have a wrong label. The others show what the model has not learned.",
    ),
    "filters": (
        "First layer",
        "What the winner detects. Each tile is a unit of the first layer, drawn as the image that activates "
        "it most: bright pixels raise its output where the tile is red, and lower it where the tile is blue. Smooth "
        "strokes and edges are learned features. Tiles that look like noise have learned little.",
    ),
}
