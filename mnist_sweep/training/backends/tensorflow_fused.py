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

# Updates a weight. Takes the optimizer, the weight's number, its gradient, the weight and the learning rate.
_Kernel = Callable[[Any, int, Any, Any, Any], object]


def install(optimizer: keras.optimizers.Optimizer) -> None:
    """Replaces an optimizer's update if TensorFlow has a fused kernel for it; otherwise does nothing.

    Args:
        optimizer: Built or not. Only dense gradients of float32 weights go through the kernel.
    """
    kernel = _kernel(optimizer)
    if kernel is None:
        return
    unfused = optimizer.update_step

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        if isinstance(gradient, tf.Tensor) and gradient.dtype == variable.dtype == tf.float32:
            i = optimizer._get_variable_index(variable)
            kernel(optimizer, i, gradient, variable, tf.cast(learning_rate, tf.float32))
        else:
            unfused(gradient, variable, learning_rate)

    optimizer.update_step = update_step


def _kernel(optimizer: Any) -> _Kernel | None:
    kind = type(optimizer)
    if kind in (keras.optimizers.Adam, keras.optimizers.AdamW) and not optimizer.amsgrad:
        return _adam
    if kind is keras.optimizers.SGD:
        return _momentum if optimizer.momentum else _gradient_descent
    # The kernel always needs a momentum variable, which Keras creates only if momentum is used.
    if kind is keras.optimizers.RMSprop and optimizer.momentum and not optimizer.centered:
        return _rmsprop
    return None


def _adam(optimizer: Any, i: int, gradient: Any, variable: Any, learning_rate: Any) -> object:
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


def _gradient_descent(_: Any, __: int, gradient: Any, variable: Any, learning_rate: Any) -> object:
    return tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=learning_rate, delta=gradient)


def _momentum(optimizer: Any, i: int, gradient: Any, variable: Any, learning_rate: Any) -> object:
    return tf.raw_ops.ResourceApplyKerasMomentum(
        var=variable.handle,
        accum=optimizer.momentums[i].value.handle,
        lr=learning_rate,
        grad=gradient,
        momentum=optimizer.momentum,
        use_nesterov=optimizer.nesterov,
    )


def _rmsprop(optimizer: Any, i: int, gradient: Any, variable: Any, learning_rate: Any) -> object:
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
