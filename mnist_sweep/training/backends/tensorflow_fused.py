"""An optimizer's update of a weight as one fused kernel, instead of about ten operations in Keras.

TensorFlow has one kernel for each common optimizer (`tf.raw_ops.ResourceApply…`), which computes the same except for
rounding. With Keras's operations, a dense model of 670,000 weights spends a seventh of its epoch on updates (Adam, one
CPU thread), and tracing them takes a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

_Update = Callable[[Any, Any, Any], object]


def install(optimizer: keras.optimizers.Optimizer) -> None:
    """Replaces an optimizer's update if TensorFlow has a fused kernel for it; otherwise does nothing.

    Args:
        optimizer: Built or not. Only dense gradients of float32 weights go through the kernel.
    """
    kernel = _KERNELS.get(type(optimizer), lambda _: None)(optimizer)
    if kernel is None:
        return
    unfused: _Update = optimizer.update_step

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        if isinstance(gradient, tf.Tensor) and gradient.dtype == variable.dtype == tf.float32:
            kernel(gradient, variable, tf.cast(learning_rate, tf.float32))
        else:
            unfused(gradient, variable, learning_rate)

    optimizer.update_step = update_step


def _adam(optimizer: Any) -> _Update | None:
    if optimizer.amsgrad:
        return None

    def update(gradient: Any, variable: Any, learning_rate: Any) -> object:
        i = optimizer._get_variable_index(variable)
        step = tf.cast(optimizer.iterations + 1, tf.float32)
        return tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=optimizer._momentums[i].value.handle,
            v=optimizer._velocities[i].value.handle,
            beta1_power=tf.pow(tf.constant(optimizer.beta_1, tf.float32), step),
            beta2_power=tf.pow(tf.constant(optimizer.beta_2, tf.float32), step),
            lr=learning_rate,
            beta1=optimizer.beta_1,
            beta2=optimizer.beta_2,
            epsilon=optimizer.epsilon,
            grad=gradient,
        )

    return update


def _sgd(optimizer: Any) -> _Update:
    def plain(gradient: Any, variable: Any, learning_rate: Any) -> object:
        return tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=learning_rate, delta=gradient)

    def momentum(gradient: Any, variable: Any, learning_rate: Any) -> object:
        return tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=optimizer.momentums[optimizer._get_variable_index(variable)].value.handle,
            lr=learning_rate,
            grad=gradient,
            momentum=optimizer.momentum,
            use_nesterov=optimizer.nesterov,
        )

    return momentum if optimizer.momentum else plain


def _rmsprop(optimizer: Any) -> _Update | None:
    if optimizer.centered or not optimizer.momentum:
        # The kernel always needs a momentum variable, which Keras creates only if momentum is used.
        return None

    def update(gradient: Any, variable: Any, learning_rate: Any) -> object:
        i = optimizer._get_variable_index(variable)
        return tf.raw_ops.ResourceApplyRMSProp(
            var=variable.handle,
            ms=optimizer._velocities[i].value.handle,
            mom=optimizer._momentums[i].value.handle,
            lr=learning_rate,
            rho=optimizer.rho,
            momentum=optimizer.momentum,
            epsilon=optimizer.epsilon,
            grad=gradient,
        )

    return update


_KERNELS: dict[type, Callable[[Any], _Update | None]] = {
    keras.optimizers.Adam: _adam,
    keras.optimizers.AdamW: _adam,
    keras.optimizers.SGD: _sgd,
    keras.optimizers.RMSprop: _rmsprop,
}
