"""The names of Keras's optimizers, learning-rate schedules, callbacks, activations, losses and metrics.

Checking a config must not load Keras (seconds, hundreds of megabytes), so the names are plain data here.
`tests/config/test_keras_names.py` compares them with the installed Keras.
"""

from __future__ import annotations

_COMMON = {
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
}
_ADAM = {"beta_1", "beta_2", "epsilon"}

# Optimizer → its arguments besides learning_rate.
OPTIMIZERS: dict[str, set[str]] = {
    "adadelta": _COMMON | {"rho", "epsilon"},
    "adafactor": _COMMON | {"beta_2_decay", "epsilon_1", "epsilon_2", "clip_threshold", "relative_step"},
    "adagrad": _COMMON | {"initial_accumulator_value", "epsilon"},
    "adam": _COMMON | _ADAM | {"amsgrad"},
    "adamax": _COMMON | _ADAM,
    "adamw": _COMMON | _ADAM | {"amsgrad"},
    "ftrl": _COMMON
    | {
        "learning_rate_power",
        "initial_accumulator_value",
        "l1_regularization_strength",
        "l2_regularization_strength",
        "l2_shrinkage_regularization_strength",
        "beta",
    },
    "lamb": _COMMON | _ADAM,
    "lion": _COMMON | {"beta_1", "beta_2"},
    "muon": _COMMON
    | {
        "adam_beta_1",
        "adam_beta_2",
        "adam_weight_decay",
        "epsilon",
        "exclude_layers",
        "exclude_embeddings",
        "muon_a",
        "muon_b",
        "muon_c",
        "adam_lr_ratio",
        "momentum",
        "ns_steps",
        "nesterov",
        "rms_rate",
    },
    "nadam": _COMMON | _ADAM,
    "rmsprop": _COMMON | {"rho", "momentum", "epsilon", "centered"},
    "schedulefreeadamw": _COMMON | _ADAM | {"warmup_steps"},
    "sgd": _COMMON | {"momentum", "nesterov"},
}

# Optimizer → its default learning rate in Keras, if it is not the usual one.
_LEARNING_RATES = {"sgd": 0.01, "schedulefreeadamw": 0.0025}
_USUAL_LEARNING_RATE = 0.001

# Schedule → (required arguments, optional arguments), besides initial_learning_rate.
SCHEDULES: dict[str, tuple[set[str], set[str]]] = {
    "CosineDecay": ({"decay_steps"}, {"alpha", "warmup_target", "warmup_steps"}),
    "CosineDecayRestarts": ({"first_decay_steps"}, {"t_mul", "m_mul", "alpha"}),
    "ExponentialDecay": ({"decay_steps", "decay_rate"}, {"staircase"}),
    "InverseTimeDecay": ({"decay_steps", "decay_rate"}, {"staircase"}),
    "PiecewiseConstantDecay": ({"boundaries", "values"}, set()),
    "PolynomialDecay": ({"decay_steps"}, {"end_learning_rate", "power", "cycle"}),
}
# Arguments that default to the number of training steps of the entire trial.
SCHEDULE_STEPS = {"decay_steps", "first_decay_steps"}

# The callbacks that work in a trial → their arguments.
CALLBACKS: dict[str, set[str]] = {
    "ReduceLROnPlateau": {"monitor", "factor", "patience", "verbose", "mode", "min_delta", "cooldown", "min_lr"},
}
_LOGS = "MLflow gets the metrics of every epoch anyway"
_OWN = "it takes Python objects; write a callback of your own, package.module:name"
_CONTINUES = "a trial keeps its best weights, and continues where it was interrupted, anyway"
# Those that do not → why.
OTHER_CALLBACKS = {
    "BackupAndRestore": _CONTINUES,
    "CSVLogger": _LOGS,
    "EarlyStopping": "set training.early_stopping.patience instead",
    "History": _LOGS,
    "LambdaCallback": _OWN,
    "LearningRateScheduler": "set optimizer.schedule.name instead, or write your own, package.module:name",
    "ModelCheckpoint": _CONTINUES,
    "CallbackList": _OWN,
    "OrbaxCheckpoint": _CONTINUES,
    "ProgbarLogger": _LOGS,
    "RemoteMonitor": _LOGS,
    "SwapEMAWeights": "set +optimizer.arguments.use_ema=true instead",
    "TensorBoard": _LOGS,
    "TerminateOnNaN": "a trial whose loss is not finite ends anyway",
}

ACTIVATIONS: set[str] = {
    *("linear", "exponential", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "glu"),
    *("sigmoid", "log_sigmoid", "hard_sigmoid", "sparse_sigmoid", "silu", "hard_silu", "swish", "hard_swish", "mish"),
    *("tanh", "hard_tanh", "tanh_shrink", "hard_shrink", "soft_shrink", "threshold", "softsign"),
    *("softmax", "log_softmax", "sparsemax", "softplus", "sparse_plus", "squareplus"),
}

# Losses and metrics, as users write them; `plain` finds them in every spelling.
LOSSES: set[str] = {
    *("binary_crossentropy", "binary_focal_crossentropy", "categorical_crossentropy", "categorical_focal_crossentropy"),
    *("categorical_generalized_cross_entropy", "categorical_hinge", "circle", "cosine_similarity", "ctc", "dice"),
    *("hinge", "huber", "kl_divergence", "log_cosh", "mean_absolute_error", "mean_absolute_percentage_error"),
    *("mean_squared_error", "mean_squared_logarithmic_error", "poisson", "sparse_categorical_crossentropy"),
    *("squared_hinge", "tversky"),
}
METRICS: set[str] = {
    *("accuracy", "auc", "binary_accuracy", "binary_crossentropy", "binary_iou", "categorical_accuracy"),
    *("categorical_crossentropy", "categorical_hinge", "concordance_correlation", "cosine_similarity", "f1_score"),
    *("f_beta_score", "false_negatives", "false_positives", "hinge", "iou", "kl_divergence", "log_cosh_error", "mean"),
    *("mean_absolute_error", "mean_absolute_percentage_error", "mean_iou", "mean_squared_error"),
    *("mean_squared_logarithmic_error", "one_hot_iou", "one_hot_mean_iou", "pearson_correlation", "poisson"),
    *("precision", "precision_at_recall", "r2_score", "recall", "recall_at_precision", "root_mean_squared_error"),
    *("sensitivity_at_specificity", "sparse_categorical_accuracy", "sparse_categorical_crossentropy"),
    *("sparse_top_k_categorical_accuracy", "specificity_at_sensitivity", "squared_hinge", "sum"),
    *("top_k_categorical_accuracy", "true_negatives", "true_positives"),
}
# Short names of some of them.
SHORT = {
    "acc": "accuracy",
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
    "mape": "mean_absolute_percentage_error",
    "msle": "mean_squared_logarithmic_error",
    "rmse": "root_mean_squared_error",
    "r2": "r2_score",
    "f1": "f1_score",
    "fbeta": "f_beta_score",
    "logcosh": "log_cosh",
    "kld": "kl_divergence",
    "bce": "binary_crossentropy",
}


def plain(name: str) -> str:
    """Returns a loss's or a metric's name in the one way in which all its spellings are the same."""
    return SHORT.get(name, name).replace("_", "").lower()


def default_learning_rate(optimizer: str) -> float:
    """Returns Keras's default learning rate of an optimizer.

    Args:
        optimizer: A key of `OPTIMIZERS`.
    """
    return _LEARNING_RATES.get(optimizer, _USUAL_LEARNING_RATE)
