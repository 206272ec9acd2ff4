"""The recipe: decoded photos in, a quantized model and its figures out; the same each time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert import export
from macule.convert.evaluation import batch_inference, metrics
from macule.convert.graph import out_of_distribution
from macule.convert.quantization import quantize, rounding
from macule.train import backbone, fine_tuning
from macule.train.data import LabelledImages

Log = Callable[[str], None]
SCALING = (backbone.MEAN, backbone.STD)

# The first layers stay float: they make most of the noise. Error of the pooled features
# against fp32 on 200 training images, in units of their spread, and RSS of a bare process: all int8
# 0.156 and 48.2 MB, stem and block 0 float 0.123 and 50.0 MB, block 1 too 0.104 and 52.7 MB. The
# last step costs more memory than it is worth under a limit of 64 MB; latency is the same.
FLOAT_LAYERS = "/(conv_stem|blocks_0_)"
CALIBRATION_IMAGES = 384


class TrainedModel(NamedTuple):
    """The shipped file, and what its card must say.

    `thresholds` are those of the card, `kept` the seeds whose weights were averaged.
    """

    content: bytes
    temperature: float
    thresholds: dict[str, float]
    kept: list[int]
    figures: dict[str, Any]


class Network(NamedTuple):
    """A way to build the same network for any side: `midway` is a layer of its, for familiarity."""

    build: Callable[[int], Any]
    midway: str


def run_recipe(
    network: Network,
    training: LabelledImages,
    validation: LabelledImages,
    labels: list[str],
    plan: fine_tuning.TrainingPlan,
    seeds: range,
    folder: Path,
    log: Log,
) -> TrainedModel:
    """Fine-tune a network for each seed, average what agrees, quantize and measure it.

    *network* gives Keras models (n, side, side, 3) -> (n, h, w, features), scaled by SCALING, the
    weights of a first training in them. It is trained on crops of `plan.side_px` and serves whole
    images of the validation's side, in which a lesion then looks as large as in the crops (Touvron
    et al. 2019, arXiv 1906.06423).
    """
    weights = []
    for seed in seeds:
        log(f"fine-tuning, seed {seed}")
        model = fine_tuning.fine_tune(
            network.build(plan.side_px),
            training,
            SCALING,
            len(labels),
            plan,
            seed,
            folder / f"seed-{seed}",
            log,
        )
        weights.append(model.get_weights())
    body = network.build(validation.pixels.shape[1])
    kept, best = average_runs(body, weights, validation, log)
    *inner, kernel, bias = best
    bias = bias + fit_bias_shift(predict_logits(body, best, validation.pixels), validation.truth)
    body.set_weights(inner)
    files = export_files(body, kernel, bias, network.midway, training, log)
    return evaluate_files(
        files, [seeds[place] for place in kept], training, validation, labels, log
    )


def average_runs(
    body: Any, weights: list[list[Any]], validation: LabelledImages, log: Log
) -> tuple[list[int], list[Any]]:
    """Average the weights of the runs, the best first, as long as validation gains.

    All start from the same weights, so they lie in one valley of the loss, and their mean near its
    floor. Source: greedy soups, Wortsman et al. 2022, arXiv 2203.05482.
    """

    def loss(chosen: list[int]) -> float:
        mean = mean_weights([weights[place] for place in chosen])
        logits = predict_logits(body, mean, validation.pixels)
        # an average is less sure of itself than each of its parts: that is the temperature's affair
        temperature = metrics.fit_temperature(logits, validation.truth)
        return metrics.log_loss(logits, validation.truth, temperature)

    alone = [loss([place]) for place in range(len(weights))]
    first, *others = sorted(range(len(weights)), key=lambda place: alone[place])
    kept, least = [first], alone[first]
    for place in others:
        together = loss([*kept, place])
        log(f"averaging {[*kept, place]}: validation loss {together:.4f}, so far {least:.4f}")
        if together <= least:
            kept, least = [*kept, place], together
    return kept, mean_weights([weights[place] for place in kept])


def mean_weights(weights: list[list[Any]]) -> list[Any]:
    """Mean of each array over the runs."""
    return [np.mean(arrays, axis=0) for arrays in zip(*weights, strict=True)]


def predict_logits(body: Any, weights: list[Any], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits (n, classes) of *body* with the weights of a run, its head's last."""
    *inner, kernel, bias = weights
    body.set_weights(inner)
    maps = body.predict(batch_inference.scale(pixels, SCALING), batch_size=32, verbose=0)
    return np.asarray(maps.mean(axis=(1, 2)) @ kernel + bias, np.float32)


def fit_bias_shift(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> NDArray[np.float32]:
    """Find what to add to each class's logit so that held-out images are judged evenly.

    Training saw other shares of the classes, and augments some more than it spoils others. The
    shift is that of least log-loss, beside a temperature, with each class weighed by the root of
    its rarity: half way between the truth about these images and the same care for each class.
    Source: bias-corrected temperature scaling, Alexandari et al. 2020, arXiv 1901.06852.

    Args:
      logits: (n, classes) of images that were not trained on.

    Returns: (classes,), 0 for the first.
    """
    from scipy.optimize import minimize

    classes = logits.shape[1]
    weights = fine_tuning.class_weights(truth, classes)[truth]

    def loss(values: NDArray[np.float64]) -> float:
        shifted = logits + np.append(0, values[1:])
        shares = metrics.softmax(shifted, float(np.exp(values[0])))
        return float(-(weights * np.log(shares[np.arange(len(truth)), truth] + 1e-12)).mean())

    # the same temperatures as `metrics.fit_temperature`, and shifts that weigh a class 20-fold
    bounds = [(-3.0, 3.0)] * classes
    best = minimize(loss, np.zeros(classes), method="L-BFGS-B", bounds=bounds).x
    return np.append(0, best[1:]).astype(np.float32)


def export_files(
    body: Any, kernel: Any, bias: Any, midway: str, training: LabelledImages, log: Log
) -> dict[str, bytes]:
    """Export the network with its maps and its distance, and quantize it in several ways."""
    import keras

    log("learning what is familiar")
    tap = keras.layers.GlobalAveragePooling2D()(body.get_layer(midway).output)
    shown = keras.Model(body.inputs, tap).predict(
        batch_inference.scale(training.pixels, SCALING), batch_size=32, verbose=0
    )
    whole = export.export_with_head(body, kernel, bias, (midway, out_of_distribution.fit(shown)))
    log("quantizing")
    samples = calibration_images(training.pixels)
    mixed = quantize.float_pattern(whole, FLOAT_LAYERS)
    return {
        "int8": rounding.int8(whole, samples, scaled_bounds(), mixed),
        "fp32": whole,
        "fp16": quantize.fp16(whole),
        "int8_plain": quantize.int8(whole, samples, scaled_bounds()),
    }


def evaluate_files(
    files: dict[str, bytes],
    kept: list[int],
    training: LabelledImages,
    validation: LabelledImages,
    labels: list[str],
    log: Log,
) -> TrainedModel:
    """Measure every file on the validation images, and set temperature and thresholds by them."""
    logits: dict[str, NDArray[np.float32]] = {}
    distances: dict[str, Any] = {}
    for name, content in files.items():
        log(f"validation: {len(validation.truth)} images, {name}, {len(content)} bytes")
        logits[name], distances[name] = batch_inference.logits_and_ood_scores(
            content, validation.pixels, SCALING
        )
    found = metrics.calibrate(logits["int8"], validation.truth)
    temperature, inconclusive = (round(number, 4) for number in found)
    calibrated = metrics.softmax(logits["int8"], temperature)
    reference = metrics.softmax(logits["fp32"], temperature)
    figures = {
        name: compute_metrics(logits[name], validation.truth, labels)
        | {"bytes": len(content)}
        | {
            "against_fp32": metrics.compare_probabilities(
                metrics.softmax(logits[name], temperature), reference
            )
        }
        for name, content in files.items()
    }
    # 150 images are few to say how often int8 changes an answer; that needs no labels
    some = training.pixels[:: max(len(training.pixels) // 500, 1)]
    pair = (
        metrics.softmax(batch_inference.logits(files[k], some, SCALING), temperature)
        for k in ("int8", "fp32")
    )
    figures["int8"]["against_fp32_on_training_images"] = metrics.compare_probabilities(*pair)
    figures["int8"]["inconclusive"] = metrics.selective_metrics(
        calibrated, validation.truth, inconclusive
    )
    thresholds = {"inconclusive": inconclusive} | out_of_distribution.score_thresholds(
        distances["int8"]
    )
    return TrainedModel(files["int8"], temperature, thresholds, kept, figures)


def compute_metrics(
    logits: NDArray[np.float32], truth: NDArray[np.int64], labels: list[str]
) -> dict[str, Any]:
    """All figures of one file, at the temperature that suits it best on the same images."""
    temperature = metrics.fit_temperature(logits, truth)
    return {"temperature": temperature} | metrics.summarise(logits, truth, labels, temperature)


def calibration_images(pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Draw the scaled images that set the ranges of the int8 activations."""
    chosen = np.random.default_rng(0).permutation(len(pixels))[:CALIBRATION_IMAGES]
    return [batch_inference.scale(pixels[place][None], SCALING) for place in chosen]


def scaled_bounds() -> tuple[float, float]:
    """Least and largest scaled pixel."""
    return batch_inference.scaled_bounds(SCALING)
