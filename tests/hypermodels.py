"""Hypermodels as users of keras-tuner write them, most of them from its guides (https://keras.io/keras_tuner/)."""

from __future__ import annotations

import keras
import keras_tuner as kt
from keras import layers


def build_model(hp):
    """From "Getting started": without an input shape, with a loop over layers and one-hot labels."""
    model = keras.Sequential()
    model.add(layers.Flatten())
    for i in range(hp.Int("num_layers", 1, 3)):
        model.add(
            layers.Dense(
                units=hp.Int(f"units_{i}", min_value=8, max_value=32, step=8),
                activation=hp.Choice("activation", ["relu", "tanh"]),
            )
        )
    if hp.Boolean("dropout"):
        model.add(layers.Dropout(rate=0.25))
    model.add(layers.Dense(10, activation="softmax"))
    learning_rate = hp.Float("lr", min_value=1e-4, max_value=1e-2, sampling="log")
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=learning_rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


class TunesFit(kt.HyperModel):
    """From "Getting started": also tunes arguments of fit."""

    def build(self, hp):
        model = keras.Sequential()
        model.add(layers.Flatten())
        model.add(layers.Dense(units=hp.Int("units", min_value=8, max_value=32, step=8), activation="relu"))
        model.add(layers.Dropout(0.2))
        model.add(layers.Dense(10, activation="softmax"))
        model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    def fit(self, hp, model, *args, **kwargs):
        return model.fit(
            *args, batch_size=hp.Choice("batch_size", [32, 64]), shuffle=hp.Boolean("shuffle", default=True), **kwargs
        )


def conditional(hp):
    """Nested conditional scopes, and a hyperparameter with the same name in two branches."""
    inputs = keras.Input((28, 28))
    kind = hp.Choice("model type", ["mlp", "cnn"])
    x = layers.Reshape((28, 28, 1))(inputs)
    with hp.conditional_scope("model type", ["mlp"]):
        if kind == "mlp":
            x = layers.Flatten()(x)
            x = layers.Dense(hp.Int("units", 8, 32, sampling="log"), hp.Choice("act", ["relu", "tanh"]))(x)
    with hp.conditional_scope("model type", ["cnn"]):
        if kind == "cnn":
            with hp.name_scope("conv"):
                filters = hp.Int("filters", 2, 8)
            pooling = hp.Choice("pooling", ["max", "none"])
            x = layers.Conv2D(filters, 3, activation=hp.Choice("act", ["relu", "tanh"]))(x)
            with hp.conditional_scope("pooling", ["max"]):
                if pooling == "max":
                    x = layers.MaxPooling2D(hp.Choice("pool.size", [2, 4]))(x)
            x = layers.Flatten()(x)
    outputs = layers.Dense(10)(x)
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer=hp.Choice("optimizer", ["adam", "sgd"]),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="right")],
    )
    return model


def rare(hp):
    """Nested loops, and a hyperparameter that is found only if two others change together."""
    model = keras.Sequential([keras.Input((784,))])
    for block in range(hp.Int("blocks", 1, 2)):
        for i in range(hp.Int(f"layers_{block}", 1, 2)):
            model.add(layers.Dense(hp.Int(f"units_{block}_{i}", 4, 8)))
    a, b = hp.Boolean("a"), hp.Boolean("b")
    if a and b:
        model.add(layers.Dropout(hp.Float("rate", 0.1, 0.5, step=0.1)))
    hp.Fixed("version", "1,2")
    model.add(layers.Dense(10, "softmax"))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["acc"])
    return model


def breaks(hp):
    """Cannot be built with so many convolutions that the image becomes too small."""
    model = keras.Sequential([keras.Input((28, 28, 1))])
    for i in range(hp.Int("convolutions", 1, 4)):
        model.add(layers.Conv2D(hp.Int(f"filters_{i}", 1, 2), 3))
        model.add(layers.MaxPooling2D(3))
    model.add(layers.Flatten())
    model.add(layers.Dense(10, "softmax"))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def impossible_default(hp):
    """Cannot be built with its default."""
    if hp.Choice("size", [1, 2, 3]) == 1:
        raise kt.errors.FailedTrialError("too small")
    return build_model(hp)


class CustomLoop(kt.HyperModel):
    """From "Getting started": a custom training loop."""

    def build(self, hp):
        model = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(10)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        return model

    def fit(self, hp, model, x, y, validation_data, callbacks=None, **kwargs):
        batch_size = hp.Int("batch_size", 32, 128, step=32, default=64)
        for callback in callbacks:
            callback.set_model(model)
        for epoch in range(10):
            for start in range(0, len(x), batch_size):
                model.train_on_batch(x[start : start + batch_size], y[start : start + batch_size])
            loss, accuracy = model.evaluate(x, y, verbose=0)
            val_loss, val_accuracy = model.evaluate(*validation_data, verbose=0)
            logs = {"loss": loss, "accuracy": accuracy, "val_loss": val_loss, "val_accuracy": val_accuracy}
            for callback in callbacks:
                callback.on_epoch_end(epoch, logs=logs)
        return val_accuracy


class TwoStages(kt.HyperModel):
    """Calls Keras's fit twice, and sets the epochs itself."""

    def build(self, hp):
        model = keras.Sequential([keras.Input((784,)), layers.Dense(16, "relu"), layers.Dense(10, "softmax")])
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    def fit(self, hp, model, x, y, **kwargs):
        model.fit(x, y, epochs=2, **kwargs)
        return model.fit(x, y, epochs=hp.Int("more", 2, 9), **kwargs)


class GuideStep(keras.Model):
    """From https://keras.io/guides/custom_train_step_in_tensorflow/; its logs contain nested logs."""

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}


class OneBatchStep(keras.Model):
    """Logs the values of one batch under the names of metrics; Keras reports the metrics instead."""

    def train_step(self, data):
        return {name: value * 0 for name, value in super().train_step(data).items()}


def custom_step(hp):
    kind = hp.Choice("kind", ["keras", "guide", "one batch", "put in place"])
    inputs = keras.Input((28, 28, 1))
    outputs = layers.Dense(10, activation="softmax")(layers.Flatten()(inputs))
    model = {"guide": GuideStep, "one batch": OneBatchStep}.get(kind, keras.Model)(inputs, outputs)
    if kind == "put in place":
        step = model.train_step
        model.train_step = lambda data: step(data)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class NeedsArguments(kt.HyperModel):
    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def build(self, hp):
        return build_model(hp)


instance = NeedsArguments(10)
nothing = None


def raises(hp):
    raise ZeroDivisionError("oh")


def no_model(hp):
    return "a model"


def not_compiled(hp):
    return keras.Sequential([keras.Input((784,)), layers.Dense(10)])


def no_accuracy(hp):
    model = not_compiled(hp)
    model.compile("sgd", "mse", metrics=["mae"])
    return model


def other_metrics(hp):
    """Without accuracy, and with a metric whose name MLflow refuses."""
    model = keras.Sequential(
        [keras.Input((784,)), layers.Dense(hp.Choice("units", [4, 8])), layers.Dense(10, "softmax")]
    )
    top = keras.metrics.SparseTopKCategoricalAccuracy(3, name="top@3")
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[top])
    return model


class Unregistered(layers.Layer):
    def call(self, x):
        return 2.0 * x


def unregistered(hp):
    """With a layer that Keras cannot find when it loads the model."""
    model = keras.Sequential([keras.Input((784,)), Unregistered(), layers.Dense(10, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def one_output(hp):
    model = keras.Sequential([layers.Flatten(), layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["accuracy"])
    return model


def no_loss(hp):
    model = not_compiled(hp)
    model.compile("sgd", "means_squared", metrics=["accuracy"])
    return model


def other_images(hp):
    model = keras.Sequential([keras.Input((32, 32, 3)), layers.Flatten(), layers.Dense(10)])
    model.compile("sgd", "mse", metrics=["accuracy"])
    return model


def custom_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_pred), axis=-1)


def rows(hp):
    model = keras.Sequential([layers.SimpleRNN(4), layers.Dense(10)])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def unrolled(hp):
    model = keras.Sequential([layers.Dense(4), layers.Dense(10)])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Silent(TwoStages):
    def fit(self, hp, model, x, y, **kwargs):
        return 0.5


class LogsAnother(TwoStages):
    def fit(self, hp, model, x, y, callbacks, **kwargs):
        for callback in callbacks:
            callback.on_epoch_end(0, logs={"loss": 1.0, "my_metric": 2.0})


class LateScore(TwoStages):
    """Logs a score that has no value in the first epochs."""

    def fit(self, hp, model, x, y, callbacks, **kwargs):
        for epoch in range(3):
            score = float("nan") if epoch < hp.Int("without", 0, 3) else 0.5 - epoch / 10
            for callback in callbacks:
                callback.on_epoch_end(epoch, logs={"loss": 1.0, "val_f1": score})


class Broken(TwoStages):
    def fit(self, hp, model, x, y, **kwargs):
        return {}["loss"]


def doubtful(hp):
    """Logits for a loss that expects probabilities, a metric for each class, and pixels that are scaled twice."""
    hidden = layers.Dense(hp.Choice("units", [4, 8]))
    model = keras.Sequential(
        [keras.Input((28, 28, 1)), layers.Rescaling(1 / 255), layers.Flatten(), hidden, layers.Dense(10)]
    )
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy", keras.metrics.F1Score(name="f1")])
    return model


def twice_softmax(hp):
    """Probabilities for a loss that expects logits."""
    last = layers.Dense(10, activation="softmax")
    model = keras.Sequential(
        [keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(hp.Choice("units", [4, 8])), last]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model
