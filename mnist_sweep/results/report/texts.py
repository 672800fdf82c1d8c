"""What the report says whatever the sweep was: of algorithms, statuses, objectives, and of how to read its pictures."""

from __future__ import annotations

# What each search does.
ALGORITHMS = {
    "random": "independent draws",
    "grid": "every combination once",
    "tpe": "draws where good trials were, not bad ones (tree-structured Parzen estimator)",
    "gp": "a Gaussian process predicts the score of untried settings, and the most promising is tried",
    "cmaes": "the evolution strategy CMA-ES",
    "asha": "stops a trial early unless it is among the best after the same number of epochs (successive halving)",
    "median": "stops a trial that is worse than the median of the others after the same number of epochs",
    "hyperband": "rounds of short trials, of which the best train on",
    "bayesian": "a Gaussian process predicts the score of untried settings, and the most promising is tried",
    "pbt": "population based training: bad trials go on from copies of good ones, with changed hyperparameters",
    "nsga2": "a genetic algorithm for several objectives",
    "none": "nothing is searched: one run",
}
# How a trial ended.
STATUSES = {
    "completed": "trained to the last epoch, or until it no longer got better",
    "stopped": "stopped before that: by the search, or because the budget was used up",
    "failed": "has no result",
    "refused": "not trained: its model would exceed the limits",
    "running": "still trains",
}
# What an objective is.
MEASURES = {
    "val_accuracy": "the part of the validation images that a model gets right",
    "val_loss": "how wrong a model's probabilities are on the validation images",
    "accuracy": "the part of the training images that a model gets right",
    "loss": "how wrong a model's probabilities are on the training images",
    "epoch_seconds": "the seconds that an epoch takes",
    "parameters": "the number of a model's weights",
    "latency": "the seconds that one prediction takes",
}
# Of each picture, a heading and how to read it, for a learner.
TEXTS = {
    "history": (
        "How the search went",
        "Each mark is a trial, from the first to the last; the line is the best score so far. A line that rises "
        "early and then stays flat says that more trials would have found little more.",
    ),
    "curves": (
        "Learning curves",
        "Each line is a trial while it trained: its score after every epoch, that is after every pass through the "
        "training images. A line that ends early was stopped there. Lines that still get better at their end "
        "might have gained from more epochs; lines that turn back have begun to learn the training images by "
        "heart.",
    ),
    "importance": (
        "Which hyperparameters matter",
        "How much each hyperparameter has to do with a trial's being among the best: how far its values there "
        "differ from its values in all trials (PED-ANOVA; the bars add up to 1). The thin lines say how sure that "
        "is: nine times out of ten, trials drawn anew from these give a value within them. A line that reaches "
        "down to nearly 0 says that this sweep cannot tell.",
    ),
    "effects": (
        "The effect of each hyperparameter",
        "Each point is a trial: its score over the value of one hyperparameter, whatever the others were. Where "
        "the points lean, the value matters. A search tries promising values more often, so a good place has many "
        "points.",
    ),
    "pair": (
        "The two most important together",
        "The score over {pair} at once. Where good values of the one change with the other, neither can be chosen "
        "alone.",
    ),
    "pareto": (
        "What cannot be had at once",
        "The marked trials are the Pareto set: no other trial is better in {objectives} at once. Along it, more "
        "of the one is paid for with the other; which is worth it, no search can say.",
    ),
    "timeline": (
        "Who ran when",
        "Each row is a place where trials run, one after another: a GPU, a share of one, or some processor cores. "
        "Each bar is a trial. Gaps are time in which a place had nothing to do.",
    ),
    "confusion": (
        "What the winner takes for what",
        "Each row is a true class, each column what the winner's model took it for, counted on the test images. "
        "The diagonal is right; a large number beside it is a pair that the model confuses.",
    ),
    "mistakes": (
        "Its worst mistakes",
        "The test images that the model got wrong while it was surest of itself. Some are hard for people too, "
        "and a few may be labelled wrongly; the rest show what the model has not understood.",
    ),
    "filters": (
        "What its first layer looks for",
        "Each tile is a unit of the model's first layer, drawn as the image that it answers to most: red where "
        "bright pixels speak for it, blue where they speak against. Smooth strokes and edges have been learned; "
        "tiles that look like noise have learned little.",
    ),
}
