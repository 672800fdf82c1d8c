"""Models of several outputs and of other shapes, as users write them for Keras."""

from __future__ import annotations

import keras
import keras_tuner as kt
from keras import layers, ops


def both(config, shape, outputs):
    """An image's mask and its class, as a dict."""
    inputs = keras.Input(shape)
    features = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    mask = layers.Conv2D(1, 1, activation="sigmoid")(features)
    label = layers.Dense(outputs["label"], activation="softmax")(layers.Flatten()(features))
    return keras.Model(inputs, {"mask": mask, "label": label})


def compiled(config, shape, outputs):
    """The same as a list of named layers, with a loss, metrics and weights of its own."""
    inputs = keras.Input(shape)
    features = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    mask = layers.Conv2D(1, 1, activation="sigmoid", name="mask")(features)
    label = layers.Dense(outputs["label"], activation="softmax", name="label")(layers.Flatten()(features))
    model = keras.Model(inputs, [mask, label])
    model.compile(
        loss={"mask": "binary_crossentropy", "label": "categorical_crossentropy"},
        metrics={"mask": [keras.metrics.BinaryIoU(name="io_u")], "label": ["accuracy"]},
        loss_weights={"mask": 2.0, "label": 1.0},
    )
    return model


def narrow(config, shape, outputs):
    """Has one output."""
    return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(3)])


def logits(config, shape, classes):
    """One logit for two classes, one for each of more."""
    of_two = classes == 2
    model = keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(1 if of_two else classes)])
    kind = keras.losses.BinaryCrossentropy if of_two else keras.losses.SparseCategoricalCrossentropy
    accuracy = keras.metrics.BinaryAccuracy(threshold=0) if of_two else keras.metrics.SparseCategoricalAccuracy()
    accuracy.name = "accuracy"
    model.compile(loss=kind(from_logits=True), metrics=[accuracy])
    return model


def segments(config, shape, classes):
    """A class for each pixel."""
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.Conv2D(classes, 1, activation="softmax"),
        ]
    )


def tags(config, shape, outputs):
    """A number for each step of a sequence."""
    return keras.Sequential(
        [keras.Input(shape), layers.Conv1D(8, 3, padding="same"), layers.Dropout(0.2), layers.Dense(1)]
    )


@keras.saving.register_keras_serializable("own_outputs")
class Autoencoder(keras.Model):
    """A variational autoencoder with a step and a call of its own, as in Keras's examples."""

    def __init__(self, size, shape, **kwargs):
        super().__init__(**kwargs)
        self.size, self.shape = size, tuple(shape)
        self.encoder = layers.Dense(2 * size)
        self.decoder = keras.Sequential(
            [layers.Dense(shape[0] * shape[1], activation="sigmoid"), layers.Reshape(shape)]
        )
        self.flat, self.seed = layers.Flatten(), keras.random.SeedGenerator(1)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.kl_tracker = keras.metrics.Mean(name="kl_loss")

    @property
    def metrics(self):
        return [self.loss_tracker, self.kl_tracker]

    def call(self, x):
        mean, _ = ops.split(self.encoder(self.flat(x)), 2, axis=-1)
        return self.decoder(mean)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        mean, log_variance = ops.split(self.encoder(self.flat(x)), 2, axis=-1)
        noise = keras.random.normal(ops.shape(mean), seed=self.seed) if training else ops.zeros_like(mean)
        restored = self.decoder(mean + ops.exp(0.5 * log_variance) * noise)
        off = ops.mean(keras.losses.binary_crossentropy(x, restored)) * 64
        kl = -0.5 * ops.mean(ops.sum(1 + log_variance - ops.square(mean) - ops.exp(log_variance), axis=-1))
        self.kl_tracker.update_state(kl)
        self.loss_tracker.update_state(off + kl)
        return off + kl

    def get_config(self):
        return {**super().get_config(), "size": self.size, "shape": self.shape}


def autoencoder(config, shape, outputs):
    return Autoencoder(3, shape)


@keras.saving.register_keras_serializable("own_outputs")
class Sparse(layers.Layer):
    """Adds a loss of its own."""

    def call(self, x):
        self.add_loss(0.01 * ops.mean(ops.abs(x)))
        return x


def adds_a_loss(config, shape, classes):
    model = keras.Sequential(
        [keras.Input(shape), layers.Flatten(), layers.Dense(8, "relu"), Sparse(), layers.Dense(classes, "softmax")]
    )
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def of_table(config, shape, classes):
    inputs = (
        {name: keras.Input(one, name=name) for name, one in shape.items()}
        if isinstance(shape, dict)
        else keras.Input(shape)
    )
    joined = layers.Concatenate()(list(inputs.values())) if isinstance(shape, dict) else inputs
    model = keras.Model(inputs, layers.Dense(classes, activation="softmax")(joined))
    model.compile(loss=keras.losses.CategoricalFocalCrossentropy(), metrics=["accuracy"])
    return model


@keras.saving.register_keras_serializable("own_outputs")
class TwoHeads(keras.Model):
    """A subclass without a step of its own."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first = layers.Conv2D(units, 3, padding="same", activation="relu")
        self.mask, self.label, self.flat = (
            layers.Conv2D(1, 1, activation="sigmoid"),
            layers.Dense(10, "softmax"),
            layers.Flatten(),
        )

    def call(self, x):
        features = self.first(x)
        return {"mask": self.mask(features), "label": self.label(self.flat(features))}

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def subclassed(hp):
    model = TwoHeads(hp.Choice("units", [4, 8]))
    model.compile(
        optimizer=keras.optimizers.Adam(hp.Float("lr", 1e-3, 1e-2)),
        loss={"mask": "binary_crossentropy", "label": "sparse_categorical_crossentropy"},
        metrics={"mask": [keras.metrics.BinaryIoU(name="io_u")], "label": ["accuracy"]},
    )
    return model


class TwoHeadsFit(kt.HyperModel):
    """With a fit of its own."""

    def build(self, hp):
        return subclassed(hp)

    def fit(self, hp, model, *args, **kwargs):
        return model.fit(*args, batch_size=hp.Choice("batch_size", [16, 32]), steps_per_epoch=3, **kwargs)
