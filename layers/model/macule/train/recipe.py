"""The deterministic training recipe: from decoded photos to a quantized model and its metrics."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert import export
from macule.convert.evaluation import batch_inference, calibration, metrics
from macule.convert.graph import out_of_distribution
from macule.convert.quantization import quantize, rounding
from macule.train import backbone, fine_tuning
from macule.train.data import LabelledImages

Log = Callable[[str], None]
SCALING = (backbone.MEAN, backbone.STD)

# The first layers stay in float, because they cause most of the quantization noise. Error of the
# pooled features relative to fp32 on 200 training images, in standard deviations, and RSS of a bare
# process: all int8: 0.156, 48.2 MB; stem and block 0 in float: 0.123, 50.0 MB; block 1 too: 0.104,
# 52.7 MB. Block 1 stays in int8 because of the memory limit of 64 MB; the latency is the same.
FLOAT_LAYERS = "/(conv_stem|blocks_0_)"
CALIBRATION_IMAGES = 384


class TrainedModel(NamedTuple):
    """The published file and the data for its card; `seeds` are those that were averaged."""

    content: bytes
    temperature: float
    thresholds: dict[str, float]
    seeds: list[int]
    figures: dict[str, Any]


class Network(NamedTuple):
    """`build` creates the network for any input size; `ood_layer` is the layer of the OOD score."""

    build: Callable[[int], Any]
    ood_layer: str


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
    """Fine-tune a network per seed, average the weights, quantize and evaluate.

    *network* builds pretrained Keras models (n, side, side, 3) -> (n, h, w, features), with inputs
    scaled by SCALING. It is trained on crops of `plan.side_px`, and used on whole images of the
    validation size, in which a lesion has the same size as in the crops (Touvron et al. 2019,
    arXiv 1906.06423).
    """
    weights = []
    for seed in seeds:
        log(f"fine-tuning, seed {seed}")
        body, work = network.build(plan.side_px), folder / f"seed-{seed}"
        model = fine_tuning.fine_tune(body, training, SCALING, len(labels), plan, seed, work, log)
        weights.append(model.get_weights())
    body = network.build(validation.pixels.shape[1])
    chosen_runs, best = average_runs(body, weights, validation, log)
    *inner, kernel, bias = best
    bias = bias + fit_bias_shift(predict_logits(body, best, validation.pixels), validation.truth)
    body.set_weights(inner)
    files = export_files(body, kernel, bias, network.ood_layer, training, log)
    averaged = [seeds[place] for place in chosen_runs]
    return evaluate_files(files, averaged, training, validation, labels, log)


def average_runs(
    body: Any, weights: list[list[Any]], validation: LabelledImages, log: Log
) -> tuple[list[int], list[Any]]:
    """Average the weights of the runs, the best first, while the validation loss decreases.

    Source: greedy model soups, Wortsman et al. 2022, arXiv 2203.05482.
    """

    def loss(chosen: list[int]) -> float:
        mean = mean_weights([weights[place] for place in chosen])
        logits = predict_logits(body, mean, validation.pixels)
        # an average is less confident than its parts; the temperature corrects this
        temperature = metrics.fit_temperature(logits, validation.truth)
        return metrics.log_loss(metrics.softmax(logits, temperature), validation.truth)

    losses = [loss([place]) for place in range(len(weights))]
    first, *others = sorted(range(len(weights)), key=lambda place: losses[place])
    chosen_runs, least = [first], losses[first]
    for place in others:
        average_loss = loss([*chosen_runs, place])
        log(
            f"averaging {[*chosen_runs, place]}: validation loss {average_loss:.4f}, "
            f"lowest so far {least:.4f}"
        )
        if average_loss <= least:
            chosen_runs, least = [*chosen_runs, place], average_loss
    return chosen_runs, mean_weights([weights[place] for place in chosen_runs])


def mean_weights(weights: list[list[Any]]) -> list[Any]:
    """Return the mean of each array over the runs."""
    return [np.mean(arrays, axis=0) for arrays in zip(*weights, strict=True)]


def predict_logits(body: Any, weights: list[Any], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the logits (n, classes) of *body* with the weights of a run; the head's come last."""
    *inner, kernel, bias = weights
    body.set_weights(inner)
    maps = body.predict(batch_inference.scale(pixels, SCALING), batch_size=32, verbose=0)
    return np.asarray(maps.mean(axis=(1, 2)) @ kernel + bias, np.float32)


def fit_bias_shift(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> NDArray[np.float32]:
    """Fit a bias shift per class on held-out images.

    Training uses other class frequencies and augmentation. The shift minimises the log loss,
    together with a temperature, with class weights from the square root of the inverse frequency:
    a compromise between the class frequencies of the images and equal weights.
    Source: bias-corrected temperature scaling, Alexandari et al. 2020, arXiv 1901.06852.

    Args:
      logits: (n, classes) of images that were not used for training.

    Returns: (classes,), 0 for the first.
    """
    from scipy.optimize import minimize

    classes = logits.shape[1]
    weights = fine_tuning.class_weights(truth, classes)[truth]

    def loss(values: NDArray[np.float64]) -> float:
        shifted = logits + np.append(0, values[1:])
        shares = metrics.softmax(shifted, float(np.exp(values[0])))
        return float(-(weights * np.log(shares[np.arange(len(truth)), truth] + 1e-12)).mean())

    # about the temperatures of `metrics.fit_temperature`, and shifts of up to a factor of 20
    bounds = [(-3.0, 3.0)] * classes
    best = minimize(loss, np.zeros(classes), method="L-BFGS-B", bounds=bounds).x
    return np.append(0, best[1:]).astype(np.float32)


def export_files(
    body: Any, kernel: Any, bias: Any, ood_layer: str, training: LabelledImages, log: Log
) -> dict[str, bytes]:
    """Export the network with maps and OOD score, and quantize it in several ways."""
    import keras

    log("fitting the OOD score")
    pooled = keras.layers.GlobalAveragePooling2D()(body.get_layer(ood_layer).output)
    features = keras.Model(body.inputs, pooled).predict(
        batch_inference.scale(training.pixels, SCALING), batch_size=32, verbose=0
    )
    scorer = out_of_distribution.fit(features)
    build_score = partial(out_of_distribution.build_score, scorer)
    float_file = export.export_with_head(body, kernel, bias, (ood_layer, build_score))
    log("quantizing")
    samples = calibration_images(training.pixels)
    bounds = batch_inference.scaled_bounds(SCALING)
    keep_float = quantize.float_pattern(float_file, FLOAT_LAYERS)
    return {
        "int8": rounding.int8(float_file, samples, bounds, keep_float),
        "fp32": float_file,
        "fp16": quantize.fp16(float_file),
        "int8_plain": quantize.int8(float_file, samples, bounds),
    }


def evaluate_files(
    files: dict[str, bytes],
    seeds: list[int],
    training: LabelledImages,
    validation: LabelledImages,
    labels: list[str],
    log: Log,
) -> TrainedModel:
    """Evaluate all files on the validation images, and fit temperature and thresholds."""
    logits: dict[str, NDArray[np.float32]] = {}
    ood_scores: dict[str, Any] = {}
    for name, content in files.items():
        log(f"validation: {len(validation.truth)} images, {name}, {len(content)} bytes")
        logits[name], ood_scores[name] = batch_inference.logits_and_ood_scores(
            content, validation.pixels, SCALING
        )
    fitted = calibration.fit(logits["int8"], validation.truth)
    temperature, inconclusive = fitted.temperature, fitted.inconclusive
    calibrated = metrics.softmax(logits["int8"], temperature)
    reference = metrics.softmax(logits["fp32"], temperature)
    figures = {}
    for name, content in files.items():
        served = metrics.softmax(logits[name], temperature)
        figures[name] = compute_metrics(logits[name], validation.truth, labels)
        figures[name]["bytes"] = len(content)
        figures[name]["against_fp32"] = metrics.compare_probabilities(served, reference)
    # 150 images are too few to estimate how often int8 changes an answer; this needs no labels
    sample = training.pixels[:: max(len(training.pixels) // 500, 1)]
    pair = (
        metrics.softmax(batch_inference.logits(files[k], sample, SCALING), temperature)
        for k in ("int8", "fp32")
    )
    figures["int8"]["against_fp32_on_training_images"] = metrics.compare_probabilities(*pair)
    figures["int8"]["inconclusive"] = selective_metrics(calibrated, validation.truth, inconclusive)
    thresholds = {"inconclusive": inconclusive}
    thresholds |= out_of_distribution.score_thresholds(ood_scores["int8"][:, 0])
    return TrainedModel(files["int8"], temperature, thresholds, seeds, figures)


def compute_metrics(
    logits: NDArray[np.float32], truth: NDArray[np.int64], labels: list[str]
) -> dict[str, Any]:
    """Return all metrics of one file, at its best temperature for these images."""
    temperature = metrics.fit_temperature(logits, truth)
    shares = metrics.softmax(logits, temperature)
    return {"temperature": temperature} | metrics.summarise(logits, truth, labels, shares)


def selective_metrics(
    probabilities: NDArray[np.float64], truth: NDArray[np.int64], threshold: float
) -> dict[str, Any]:
    """Return coverage and risk if answers below *threshold* are withheld."""
    top, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    covered = top >= threshold
    classes = range(probabilities.shape[1])
    return {
        "n": len(truth),
        "coverage": float(covered.mean()),
        "risk": metrics.proportion(predicted[covered] != truth[covered]),
        "covered_per_class": [metrics.proportion(covered[truth == index]) for index in classes],
        "wrong_and_kept_per_class": [
            int((covered & (truth == index) & (predicted != index)).sum()) for index in classes
        ],
    }


def calibration_images(pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Sample the scaled images that calibrate the int8 ranges."""
    chosen = np.random.default_rng(0).permutation(len(pixels))[:CALIBRATION_IMAGES]
    return [batch_inference.scale(pixels[place][None], SCALING) for place in chosen]
