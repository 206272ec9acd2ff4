"""A Keras model to a float LiteRT file: one signature, batch 1, logits and activation maps."""

import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray


def export(body: Any, kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> bytes:
    """Export *body* with a GAP + Dense head as a float32 `.tflite`.

    Args:
      body: Keras model from one image batch to feature maps (n, h, w, features).
      kernel: (features, classes), the Dense layer's weights.
      bias: (classes,).

    Returns: the file. Input (1, side, side, 3) float32, scaled. Outputs `cams` (1, h, w, classes)
      and `logits` (1, classes), both float32; their rank tells them apart.

    Pooling and a Dense layer commute: with cams = features * kernel at every place, logits =
    mean(cams) + bias, and each cam is the class's Grad-CAM before its ReLU. So the explanation
    costs one output and no second pass.
    """
    import tensorflow as tf

    module = hold(body)
    module.kernel = tf.constant(np.asarray(kernel, np.float32)[None, None])
    module.bias = tf.constant(np.asarray(bias, np.float32))

    def serve(image: Any) -> dict[str, Any]:
        features = body(image, training=False)
        with tf.name_scope("head"):
            cams = tf.nn.conv2d(features, module.kernel, 1, "VALID")
            return {"cams": cams, "logits": tf.reduce_mean(cams, [1, 2]) + module.bias}

    return convert(module, serve, body)


def export_features(body: Any) -> bytes:
    """Export *body* and its pooling alone; the output `features` is (1, features), float32.

    Quantized like a whole model, it gives the very features that a head will meet there.
    """
    import tensorflow as tf

    module = hold(body)

    def serve(image: Any) -> dict[str, Any]:
        maps = body(image, training=False)
        with tf.name_scope("head"):
            return {"features": tf.reduce_mean(maps, [1, 2])}

    return convert(module, serve, body)


def hold(body: Any) -> Any:
    """Make the module that owns the body's variables.

    Without it Keras 3 hides them from the converter, which then drops all weights in silence.
    """
    import tensorflow as tf

    module = tf.Module()
    module.held = [variable.value for variable in body.variables]
    return module


def convert(module: Any, serve: Any, body: Any) -> bytes:
    """Save *module* with *serve* as its only signature, batch fixed to 1, and convert it."""
    import tensorflow as tf

    shape = (1, *body.input_shape[1:])
    function = tf.function(serve, input_signature=[tf.TensorSpec(shape, tf.float32, "image")])
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": function})
        return bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def split(model: Any) -> tuple[Any, NDArray[np.float32], NDArray[np.float32]]:
    """Take a classifier apart: its body, and the kernel and bias of its GAP + Dense head.

    A softmax on the Dense layer is dropped (the logits leave the graph without it), dropout does
    nothing when serving.

    Raises: ValueError where the head is anything else.
    """
    import keras

    *_, pool, dense = [
        None,
        *(layer for layer in model.layers if not isinstance(layer, keras.layers.Dropout)),
    ]
    if not isinstance(pool, keras.layers.GlobalAveragePooling2D):
        raise ValueError("the last layers are not global average pooling and one Dense layer")
    if not isinstance(dense, keras.layers.Dense):
        raise ValueError(f"the last layer is {type(dense).__name__}, not Dense")
    if dense.activation not in (keras.activations.linear, keras.activations.softmax):
        raise ValueError(f"the Dense head has the activation {dense.activation.__name__}")
    kernel = np.asarray(dense.kernel, np.float32)
    bias = np.asarray(dense.bias, np.float32) if dense.use_bias else np.zeros(kernel.shape[1])
    return keras.Model(model.input, pool.input), kernel, np.asarray(bias, np.float32)
