"""Models of scikit-learn and Keras, by the tools that export those. Imported by export.py; not run."""

import os
import pathlib
import tempfile

import numpy as np
import onnx
import skl2onnx
import sklearn
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from case import Case, model, seed

OPSET = 17


@model("sklearn_mlp")
def sklearn_mlp():
    """A classifier of digits: the label, and a probability each class."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    classifier = MLPClassifier((32, 16), max_iter=30, random_state=1).fit(pixels[200:], labels[200:])
    proto = skl2onnx.to_onnx(classifier, pixels[:1], target_opset=OPSET, options={"zipmap": False})
    return Case(
        proto,
        f"scikit-learn {sklearn.__version__}, skl2onnx {skl2onnx.__version__}",
        lambda batch, rng: [pixels[rng.choice(200, batch, replace=False)]],
        lambda inputs: [classifier.predict(inputs[0]), classifier.predict_proba(inputs[0])],
    )


@model("keras_cnn")
def keras_cnn():
    """A convolutional network whose images are [batch, height, width, channels]."""
    os.environ["KERAS_BACKEND"] = "torch"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KERAS_HOME"] = folder
        import keras
        from keras import layers

        keras.utils.set_random_seed(seed("keras_cnn"))
        network = keras.Sequential([
            keras.Input((20, 20, 3)),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.5),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.Conv2D(16, 3, strides=2, padding="same"),
            layers.BatchNormalization(momentum=0.5),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10),
        ])

        def inputs(batch, rng):
            return [rng.normal(size=(batch, 20, 20, 3)).astype(np.float32)]

        for index in range(8):
            network(inputs(16, np.random.default_rng(index))[0], training=True)
        path = pathlib.Path(folder) / "model.onnx"
        network.export(path, format="onnx", verbose=False)
        proto = onnx.load(path)
    return Case(proto, f"Keras {keras.__version__} over PyTorch", inputs,
                lambda arrays: [keras.ops.convert_to_numpy(network(arrays[0]))])
