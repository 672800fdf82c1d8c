"""The tags that mark a sweep's runs in MLflow."""

from __future__ import annotations

TAG_SWEEP = "mnist_sweep.sweep"
# Tells sweeps apart that have the same name and started in the same second. Sweeps of early versions have none.
TAG_ID = "mnist_sweep.id"
TAG_KIND = "mnist_sweep.kind"
TAG_TRIAL = "mnist_sweep.trial"
TAG_EXECUTION = "mnist_sweep.execution"
TAG_CONFIRMS = "mnist_sweep.confirms"
TAG_STATUS = "mnist_sweep.status"
TAG_REASON = "mnist_sweep.reason"
TAG_WINNER = "mnist_sweep.winner"
# The place on the leaderboard, with zeros in front so that MLflow can sort it; of a sweep's own run, how many have one.
TAG_RANK = "mnist_sweep.rank"
TAG_OBJECTIVE = "mnist_sweep.objective"
TAG_BEGUN = "mnist_sweep.begun"
# How often a trial was retried by the user's wish before this run; absent from its first run.
TAG_RETRIED = "mnist_sweep.retried"
TAG_DONE = "mnist_sweep.logged"
TAG_SLOT = "mnist_sweep.slot"
# Starts the tags with what the nodes of a cluster are, by their names.
NODE = "mnist_sweep.node_"
TAG_BACKEND = "mnist_sweep.backend"
# Who added or stopped a trial while the sweep ran; of a sweep's own run, all that was changed, as JSON.
TAG_ADDED_BY = "mnist_sweep.added_by"
TAG_STOPPED_BY = "mnist_sweep.stopped_by"
TAG_STEERED = "mnist_sweep.steered"
TAG_GOES_ON_FROM = "mnist_sweep.goes_on_from"
TAG_MODEL_SHA256 = "mnist_sweep.model_sha256"
# The search space as JSON, if it has grown: MLflow's parameters cannot change.
TAG_SPACE = "mnist_sweep.space"
# The sweep and the trial that a run retrains, and that trial's run.
TAG_RETRAINS = "mnist_sweep.retrains"
TAG_RETRAINS_TRIAL = "mnist_sweep.retrains_trial"
TAG_RETRAINS_RUN = "mnist_sweep.retrains_run"
TAG_NOTE = "mlflow.note.content"
# Of an experiment: the path of its database. In a copied database, it still names the original.
TAG_STORE = "mnist_sweep.store"
PARENT_TAG = "mlflow.parentRunId"
# Without these, a run cannot be found as part of its sweep.
IDENTIFYING = (
    TAG_SWEEP,
    TAG_ID,
    TAG_KIND,
    TAG_TRIAL,
    TAG_EXECUTION,
    TAG_RETRIED,
    TAG_OBJECTIVE,
    TAG_RETRAINS,
    PARENT_TAG,
)

SWEEP, TRIAL, EXECUTION = "sweep", "trial", "execution"
# The kinds of runs, as `TAG_KIND`: the trials nested in a sweep's run, and in that of a run that retrains one.
RETRAINING, RETRAINED = "retraining", "retrained"
NESTED = {SWEEP: TRIAL, RETRAINING: RETRAINED}
