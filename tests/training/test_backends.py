"""The faster dropout and convolution give what Keras's layers give."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mnist_sweep.training import backends


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.9])
def test_dropout_drops_the_given_share_and_keeps_the_mean(rate: float) -> None:
    """0.1 is not a multiple of 1/256, but the mean over many steps is right."""
    number, generator = backends.Number(rate), keras.random.SeedGenerator(1)
    inputs = np.full((64, 999), 2.0, np.float32)
    drawn = [np.asarray(backends.dropout(inputs, number, generator)) for _ in range(60)]
    assert not np.array_equal(drawn[0], drawn[1])
    values, counts = np.unique(np.stack(drawn), return_counts=True)
    np.testing.assert_allclose(values, [0, 2 / (1 - rate)], rtol=1e-3)
    # Four standard deviations of as many independent draws, and of the random threshold of each step.
    units = inputs.size * len(drawn)
    allowed = 4 * (rate * (1 - rate) / units) ** 0.5 + 4 * 0.5 / 256 / len(drawn) ** 0.5
    assert counts[0] / units == pytest.approx(rate, abs=allowed)


def test_dropout_depends_on_the_seed_only_and_has_the_right_gradient() -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the test uses TensorFlow's gradients")
    import tensorflow as tf

    number, inputs = backends.Number(0.5), tf.ones((3, 5, 5, 7))
    first, again = (backends.dropout(inputs, number, keras.random.SeedGenerator(3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        out = backends.dropout(inputs, number, keras.random.SeedGenerator(3))
    np.testing.assert_array_equal(tape.gradient(out, inputs), first)


@pytest.mark.parametrize(
    "arguments",
    [
        {"activation": "relu"},
        {"activation": "gelu", "padding": "same", "kernel_size": 2},
        {"activation": None, "use_bias": False},
        {"activation": "elu", "dtype": "mixed_bfloat16"},
    ],
)
def test_a_convolution_has_the_same_outputs_and_gradients_as_in_keras(arguments) -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("JAX uses Keras's layer")
    import tensorflow as tf

    images = np.random.default_rng(1).random((4, 8, 8, 3), np.float32)
    layers = [kind(5, **{"kernel_size": 3} | arguments) for kind in (keras.layers.Conv2D, backends.Conv2D)]
    found = []
    for layer in layers:
        layer.build(images.shape)
        layer.set_weights([np.random.default_rng(2).random(w.shape, np.float32) - 0.5 for w in layer.weights])

        @tf.function
        def run(layer=layer):
            with tf.GradientTape() as tape:
                out = layer(images)
                loss = tf.reduce_sum(tf.cast(out, tf.float32) ** 2)
            return out, *tape.gradient(loss, [w.value for w in layer.trainable_variables])

        found.append([tf.cast(tensor, tf.float32).numpy() for tensor in run()])
    for own, theirs in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(own, theirs, rtol=1e-4 if "dtype" not in arguments else 0.05, atol=1e-3)


def test_max_pooling_for_gpus_has_the_same_outputs_and_gradients_as_in_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    if keras.backend.backend() != "jax":
        pytest.skip("TensorFlow uses Keras's layer")
    import jax

    # Few values, so that a window's maximum is there several times; and a row and a column that belong to no window.
    images = np.random.default_rng(1).integers(0, 4, (3, 7, 9, 2)).astype(np.float32)
    found = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        layer = backends.MaxPooling2D(2)
        found.append((layer(images), jax.grad(lambda x, layer=layer: (layer(x) ** 2).sum())(images)))
    for keras_, own in zip(*found, strict=True):
        np.testing.assert_array_equal(own, keras_)


def test_a_missing_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(RuntimeError, match="the GPU is gone"):
        backends.configure(1, gpu=True)
