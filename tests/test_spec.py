"""Specs: what their structs accept, errors that name the key, and the walk over layers."""

from __future__ import annotations

import itertools
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from msgspec.structs import replace
from random_specs import DEEP, layer_lists

from isograd.errors import SpecError
from isograd.nn import spec as s


def test_lists_become_tuples_and_specs_are_values():
    assert DEEP.network.layers[0].layers == (s.Dense(32), s.Activation("logistic"))
    same = s.Spec(
        s.Data("digits"),
        s.Network((s.Repeat(30, (s.Dense(32), s.Activation("logistic"))), s.Dense(10))),
    )
    assert (DEEP, hash(DEEP)) == (same, hash(same))
    assert pickle.loads(pickle.dumps(DEEP)) == DEEP
    with pytest.raises(AttributeError):
        DEEP.seed = 3


def test_numbers_are_kept_as_plain_python_numbers():
    layer, optimiser = s.Dense(np.int64(3)), s.SGD(np.float32(0.5))
    assert (type(layer.units), type(optimiser.lr)) == (int, float)
    assert type(s.Adam(lr=1).lr) is float


def weighted(class_weights):
    return s.SoftmaxCrossEntropy(class_weights=class_weights)


def images(**files):
    return s.Data("a.idx", labels="b.idx", **files)


def scheduled(schedule):
    return s.Training(epochs=30, schedule=schedule)


@pytest.mark.parametrize(
    ("make", "place", "came", "fix"),
    [
        (lambda: s.Dense(0), "Dense.units", "units = 0", "give 1 or more"),
        (lambda: s.Dense(-3), "Dense.units", "units = -3", "give 1 or more"),
        (lambda: s.Dense("32"), "Dense.units", "units = '32'", "give 1 or more"),
        (lambda: s.Dense(3.0), "Dense.units", "units = 3.0", "give 1 or more"),
        (lambda: s.Dense(True), "Dense.units", "units = True", "give 1 or more"),
        (lambda: s.Dense(10**9), "Dense.units", "units = 1000000000", "give 1000000 or less"),
        (lambda: s.Dense(-(10**5000)), "Dense.units", "cannot be shown", "give 1 or more"),
        (lambda: s.Dense(3, bias=1), "Dense.bias", "bias = 1", "true or false"),
        (lambda: s.Dense(3, init="he"), "Dense.init", "init = 'he'", "pass one"),
        (lambda: s.Activation("tnah"), "Activation.name", "name = 'tnah'", "'tanh'"),
        (lambda: s.Activation("sigmoid"), "Activation.name", "name = 'sigmoid'", "'logistic'"),
        (lambda: s.Activation("zzz"), "Activation.name", "name = 'zzz'", "known: elu, erf, gelu"),
        (lambda: s.Activation(3), "Activation.name", "name = 3", "known: elu, erf, gelu"),
        (lambda: s.Activation("tanh", 1), "Activation.alpha", "alpha = 1 with tanh", "remove"),
        (lambda: s.Activation("elu", -1), "Activation.alpha", "alpha = -1", "at least 0"),
        (lambda: s.Activation([]), "Activation.name", "name = []", "known: elu, erf, gelu"),
        (lambda: s.Activation("elu", beta=1), "Activation.beta", "beta = 1 with elu", "remove"),
        (lambda: s.Activation("swish", 1), "Activation.alpha", "alpha = 1 with swish", "remove"),
        (lambda: s.Activation("swish", beta="1"), "Activation.beta", "beta = '1'", "finite"),
        (lambda: s.Activation("prelu", learned=1), "Activation.learned", "learned = 1", "true or"),
        (
            lambda: s.Activation("elu", learned=False),
            "Activation.learned",
            "learned = False with elu",
            "remove learned",
        ),
        (lambda: s.Dropout(1), "Dropout.rate", "rate = 1", "at least 0 and below 1"),
        (lambda: s.Dropout(-0.1), "Dropout.rate", "rate = -0.1", "at least 0 and below 1"),
        (lambda: s.LayerNorm(0), "LayerNorm.eps", "eps = 0", "above 0"),
        (lambda: s.RMSNorm(0), "RMSNorm.eps", "eps = 0", "above 0"),
        (lambda: s.BatchNorm(0), "BatchNorm.eps", "eps = 0", "above 0"),
        (lambda: s.BatchNorm(momentum=0), "BatchNorm.momentum", "= 0", "above 0 and at most 1"),
        (lambda: s.BatchNorm(momentum=1.1), "BatchNorm.momentum", "= 1.1", "at most 1"),
        (lambda: s.Scale(math.inf), "Scale.value", "value = inf", "finite"),
        (lambda: s.Scale(1, learned="no"), "Scale.learned", "learned = 'no'", "true or false"),
        (lambda: s.Residual([]), "Residual.layers", "layers = []", "add a layer"),
        (lambda: s.Residual([3]), "Residual.layers[0]", "3", "known: dense"),
        (lambda: s.Residual(s.Dense(3)), "Residual.layers", "Dense(", "add a layer"),
        (lambda: s.Repeat(0, [s.Dense(3)]), "Repeat.times", "times = 0", "give 1 or more"),
        (lambda: s.Normal(0), "Normal.std", "std = 0", "above 0"),
        (lambda: s.Constant(math.nan), "Constant.value", "value = nan", "finite"),
        (lambda: s.Xavier("norml"), "Xavier.distribution", "'norml'", "'normal'"),
        (lambda: s.He(gain=-1), "He.gain", "gain = -1", "above 0"),
        (lambda: s.LeCun(gain=math.inf), "LeCun.gain", "gain = inf", "above 0"),
        (lambda: s.Orthogonal(0), "Orthogonal.gain", "gain = 0", "above 0"),
        (lambda: s.Critical(q=0), "Critical.q", "q = 0", "above 0"),
        (
            lambda: s.Critical(distribution="uniform"),
            "Critical.distribution",
            "'uniform'",
            "'normal'",
        ),
        (lambda: s.Critical(gain=0), "Critical.gain", "gain = 0", "above 0"),
        (
            lambda: s.VarianceScaling(-0.5),
            "VarianceScaling.sigma_w2",
            "sigma_w2 = -0.5",
            "at least 0",
        ),
        (
            lambda: s.VarianceScaling(1, -1),
            "VarianceScaling.sigma_b2",
            "sigma_b2 = -1",
            "at least 0",
        ),
        (
            lambda: s.VarianceScaling(distribution="uni"),
            "VarianceScaling.distribution",
            "'uni'",
            "'uniform'",
        ),
        (lambda: s.Uniform(0), "Uniform.gain", "gain = 0", "above 0"),
        (lambda: s.LSUV(0), "LSUV.gain", "gain = 0", "above 0"),
        (lambda: s.LSUV(tolerance=0), "LSUV.tolerance", "tolerance = 0", "above 0"),
        (lambda: s.LSUV(iterations=0), "LSUV.iterations", "iterations = 0", "give 1 or more"),
        (lambda: s.LSUV(iterations=2000), "LSUV.iterations", "= 2000", "give 1000 or less"),
        (lambda: s.HalfSquaredError(-1), "HalfSquaredError.l2", "l2 = -1", "at least 0"),
        (lambda: s.MeanSquaredError(-1), "MeanSquaredError.l2", "l2 = -1", "at least 0"),
        (lambda: s.Huber(-1), "Huber.l2", "l2 = -1", "at least 0"),
        (lambda: s.Huber(delta=0), "Huber.delta", "delta = 0", "above 0"),
        (lambda: s.BinaryCrossEntropy(-1), "BinaryCrossEntropy.l2", "l2 = -1", "at least 0"),
        (
            lambda: s.BinaryCrossEntropy(inputs="logit"),
            "BinaryCrossEntropy.inputs",
            "'logit'",
            "'logits'",
        ),
        (lambda: s.SoftmaxCrossEntropy(-1), "SoftmaxCrossEntropy.l2", "l2 = -1", "at least 0"),
        (lambda: weighted(1), "SoftmaxCrossEntropy.class_weights", "= 1", "square brackets"),
        (lambda: weighted("12"), "SoftmaxCrossEntropy.class_weights", "= '12'", "square brackets"),
        (lambda: weighted([]), "SoftmaxCrossEntropy.class_weights", "= []", "above 0"),
        (lambda: weighted([0, 0]), "SoftmaxCrossEntropy.class_weights", "[0, 0]", "above 0"),
        (lambda: weighted([1, -2]), "SoftmaxCrossEntropy.class_weights", "-2", "correct -2"),
        (lambda: weighted([1, "2"]), "SoftmaxCrossEntropy.class_weights", "'2'", "correct '2'"),
        (lambda: weighted([True]), "SoftmaxCrossEntropy.class_weights", "True", "correct True"),
        (lambda: weighted([math.nan]), "SoftmaxCrossEntropy.class_weights", "nan", "correct nan"),
        (lambda: weighted([10**400]), "SoftmaxCrossEntropy.class_weights", "1000", "correct 1000"),
        (lambda: s.SGD(0), "SGD.lr", "lr = 0", "above 0"),
        (lambda: s.SGD(10**400), "SGD.lr", "lr = 1000", "above 0"),
        (lambda: s.SGD("0.1"), "SGD.lr", "lr = '0.1'", "above 0"),
        (lambda: s.GradientDescent(-1), "GradientDescent.lr", "lr = -1", "above 0"),
        (lambda: s.Momentum(0.1, 1), "Momentum.momentum", "momentum = 1", "below 1"),
        (lambda: s.Nesterov(momentum=-1), "Nesterov.momentum", "momentum = -1", "at least 0"),
        (lambda: s.AdamW(weight_decay=-1), "AdamW.weight_decay", "= -1", "at least 0"),
        (lambda: s.AdamW(beta1=1), "AdamW.beta1", "beta1 = 1", "below 1"),
        (lambda: s.AdamW(beta2=-1), "AdamW.beta2", "beta2 = -1", "at least 0"),
        (lambda: s.AdamW(eps=0), "AdamW.eps", "eps = 0", "above 0"),
        (lambda: s.AdaGrad(eps=0), "AdaGrad.eps", "eps = 0", "above 0"),
        (lambda: s.RMSProp(decay=-0.1), "RMSProp.decay", "decay = -0.1", "at least 0"),
        (lambda: s.RMSProp(eps=0), "RMSProp.eps", "eps = 0", "above 0"),
        (lambda: s.Adam(beta1=-0.1), "Adam.beta1", "beta1 = -0.1", "at least 0"),
        (lambda: s.Adam(eps=-1), "Adam.eps", "eps = -1", "above 0"),
        (lambda: s.Adam(math.nan), "Adam.lr", "lr = nan", "above 0"),
        (lambda: s.Adam(beta2=1.0), "Adam.beta2", "beta2 = 1.0", "below 1"),
        (lambda: s.Data("digit"), "Data.source", "'digit'", "'digits'"),
        (lambda: s.Data("x.txt"), "Data.source", "'x.txt'", "known: arrays"),
        (lambda: s.Data(3), "Data.source", "3", "known: arrays"),
        (lambda: s.Data("iris", "y"), "Data.target", "target = 'y' with", "remove target"),
        (lambda: s.Data("x.csv", ""), "Data.target", "target = ''", "leave target out"),
        (lambda: s.Data("a\0.csv"), "Data.source", "a\\x00.csv", "remove"),
        (lambda: s.Data("\udc80.csv"), "Data.source", "udc80.csv", "rename"),
        (lambda: s.Data(b"a.csv"), "Data.source", "b'a.csv'", "known: arrays"),
        (lambda: s.Data(Path("a.txt")), "Data.source", "'a.txt'", "known: arrays"),
        (lambda: s.Data("iris", test="b.csv"), "Data.test", "with source = 'iris'", "remove test"),
        (lambda: s.Data("a.csv", test=""), "Data.test", "test = ''", "leave test out"),
        (lambda: s.Data("a.csv", test="b.npz"), "Data.test", "test = 'b.npz'", "convert"),
        (lambda: s.Data("a.csv", test="b\0.csv"), "Data.test", "x00", "remove"),
        (lambda: s.Data("a.npz", labels="b.idx"), "Data.labels", "'a.npz'", "remove labels"),
        (lambda: s.Data("a.npz", test_labels="b.idx"), "Data.test_labels", "'a.npz'", "remove"),
        (lambda: s.Data("a.idx"), "Data.labels", "'a.idx' alone", "add labels"),
        (lambda: s.Data("a.idx", labels="b.csv"), "Data.labels", "labels = 'b.csv'", "convert"),
        (lambda: images(test="c.idx"), "Data.test_labels", "one of them", "both or none"),
        (lambda: images(test_labels="c.idx"), "Data.test_labels", "one of them", "both or none"),
        (lambda: s.Data("iris", test_fraction=1), "Data.test_fraction", "= 1", "below 1"),
        (lambda: s.Data("iris", test_fraction=0), "Data.test_fraction", "= 0", "above 0"),
        (lambda: s.Data("iris", validation_fraction=1), "Data.validation_fraction", "1", "below 1"),
        (lambda: s.Data("iris", validation_fraction=-1), "Data.validation_fraction", "-1", "least"),
        (lambda: s.Data("iris", standardise="joint"), "Data.standardise", "'joint'", "jointly"),
        (lambda: s.Data("iris", stratify=1), "Data.stratify", "stratify = 1", "true or false"),
        (lambda: s.Data("iris", missing="men"), "Data.missing", "missing = 'men'", "'mean'"),
        (
            lambda: s.Data("iris", rows=100),
            "Data.rows",
            "rows = 100 with source = 'iris'",
            "remove rows",
        ),
        (
            lambda: s.Data("a.csv", noise=0),
            "Data.noise",
            "noise = 0 with source = 'a.csv'",
            "remove noise",
        ),
        (lambda: s.Data("moons", rows=9), "Data.rows", "rows = 9", "give 10 or more"),
        (lambda: s.Data("moons", rows=100.0), "Data.rows", "rows = 100.0", "give 10 or more"),
        (lambda: s.Data("moons", rows=10**8), "Data.rows", "100000000", "give 10000000 or less"),
        (lambda: s.Data("moons", noise=-1), "Data.noise", "noise = -1", "at least 0"),
        (lambda: s.Data("moon"), "Data.source", "'moon'", "'moons'"),
        (lambda: s.Data("iris", standardise=0), "Data.standardise", "= 0", "true or false"),
        (lambda: s.Network([]), "Network.layers", "layers = []", "add a layer"),
        (lambda: s.Network([s.Dense(3)], "mse"), "Network.loss", "loss = 'mse'", "pass one"),
        (lambda: s.Network([s.Dense(3)], init="he"), "Network.init", "init = 'he'", "pass one"),
        (lambda: replace(DEEP, network=[]), "Spec.network", "network = []", "pass one"),
        (lambda: replace(DEEP, optimiser="sgd"), "Spec.optimiser", "optimiser = 'sgd'", "pass one"),
        (lambda: replace(DEEP, training=30), "Spec.training", "training = 30", "pass one"),
        (lambda: replace(DEEP, measure=None), "Spec.measure", "measure = None", "pass one"),
        (lambda: s.Training(0), "Training.epochs", "epochs = 0", "give 1 or more"),
        (lambda: s.Training(batch_size=0), "Training.batch_size", "= 0", "give 1 or more"),
        (lambda: s.Training(clip_norm=0), "Training.clip_norm", "clip_norm = 0", "above 0"),
        (lambda: s.Training(clip_value=-1), "Training.clip_value", "= -1", "above 0"),
        (
            lambda: s.Training(normalise_gradient=1),
            "Training.normalise_gradient",
            "normalise_gradient = 1",
            "true or false",
        ),
        (lambda: s.Training(recompute=0), "Training.recompute", "recompute = 0", "true or false"),
        (
            lambda: s.Training(normalise_gradient=True, clip_norm=1),
            "Training.clip_norm",
            "normalise_gradient and clip_norm",
            "remove one",
        ),
        (
            lambda: s.Training(early_stopping=True),
            "Training.early_stopping",
            "early_stopping = True",
            "pass one",
        ),
        (lambda: s.Training(precision="fp16"), "Training.precision", "= 'fp16'", "pass one"),
        (lambda: s.Precision(), "Precision.weights", "none of them", 'gradients = "fp16"'),
        (lambda: s.Precision("fp161"), "Precision.weights", "'fp161'", "'fp16'"),
        (lambda: s.Precision("float16"), "Precision.weights", "'float16'", "did you mean 'fp16'"),
        (lambda: s.Precision("fp16", "e4m3"), "Precision.activations", "'e4m3'", "'fp8_e4m3'"),
        (lambda: s.Precision("fp16", rounding="up"), "Precision.rounding", "'up'", "nearest"),
        (lambda: s.Precision("fp16", master=0), "Precision.master", "= 0", "true or false"),
        (
            lambda: s.Precision(gradients="fp16", master=False),
            "Precision.master",
            "master = false without weights",
            'add weights = "bf16"',
        ),
        *(
            (
                lambda scale=scale: s.Precision(gradients="fp16", loss_scale=scale),
                "Precision.loss_scale",
                f"loss_scale = {scale!r}",
                fix,
            )
            for scale, fix in (
                (1000, "give 1024.0"),
                (0.3, "give 0.25"),
                (0, "above 0"),
                (2.0**200, f"give {2.0**126!r}"),
                ("dynamical", "did you mean 'dynamic'"),
                (True, "above 0"),
            )
        ),
        (
            lambda: s.Precision("fp16", loss_scale=2),
            "Precision.loss_scale",
            "loss_scale = 2.0 without gradients",
            'add gradients = "fp16"',
        ),
        (lambda: s.Precision("fp16", interval=0), "Precision.interval", "= 0", "1 or more"),
        (
            lambda: replace(DEEP, training=s.Training(precision=s.Precision("fp16", "fp64"))),
            "Spec.training.precision.activations",
            "activations = 'fp64' in float32",
            'set dtype = "float64"',
        ),
        (lambda: s.EarlyStopping(0), "EarlyStopping.patience", "patience = 0", "give 1 or more"),
        (lambda: s.EarlyStopping(1, -1), "EarlyStopping.min_delta", "= -1", "at least 0"),
        (lambda: scheduled("cosine"), "Training.schedule", "= 'cosine'", "square brackets"),
        (lambda: scheduled(s.WarmUp(1)), "Training.schedule", "WarmUp(", "square brackets"),
        (lambda: scheduled(["cosine"]), "Training.schedule[0]", "'cosine'", "known: constant"),
        (lambda: scheduled([s.WarmUp(1), s.SGD()]), "Training.schedule[1]", "SGD(", "known: const"),
        (
            lambda: scheduled([s.Plateau(), s.CosineDecay(epochs=29.5)]),
            "Training.schedule[1].epochs",
            "epochs = 29.5 with training.epochs = 30",
            "give 30 or more, or remove it",
        ),
        (
            lambda: scheduled([s.OneCycle(epochs=29)]),
            "Training.schedule[0].epochs",
            "epochs = 29 with training.epochs = 30",
            "give 30 or more, or remove it",
        ),
        (
            lambda: scheduled([s.WarmUp(31)]),
            "Training.schedule[0].epochs",
            "epochs = 31 with training.epochs = 30",
            "give 30 or less",
        ),
        (lambda: s.StepDecay(0), "StepDecay.every", "every = 0", "above 0"),
        (lambda: s.StepDecay(1, 0), "StepDecay.factor", "factor = 0", "above 0"),
        (lambda: s.ExponentialDecay(0), "ExponentialDecay.factor", "factor = 0", "above 0"),
        (lambda: s.CosineDecay(-1), "CosineDecay.final", "final = -1", "at least 0"),
        (lambda: s.CosineDecay(epochs=0), "CosineDecay.epochs", "epochs = 0", "above 0"),
        (lambda: s.WarmUp(0), "WarmUp.epochs", "epochs = 0", "above 0"),
        (lambda: s.WarmUp(1, 0), "WarmUp.start", "start = 0", "above 0"),
        (lambda: s.OneCycle(0), "OneCycle.start", "start = 0", "above 0"),
        (lambda: s.OneCycle(final=-1), "OneCycle.final", "final = -1", "at least 0"),
        (lambda: s.OneCycle(up=0), "OneCycle.up", "up = 0", "above 0 and below 1"),
        (lambda: s.OneCycle(up=1), "OneCycle.up", "up = 1", "above 0 and below 1"),
        (lambda: s.OneCycle(epochs=0), "OneCycle.epochs", "epochs = 0", "above 0"),
        (lambda: s.Plateau(1), "Plateau.factor", "factor = 1", "above 0 and below 1"),
        (lambda: s.Plateau(patience=-1), "Plateau.patience", "patience = -1", "give 0 or more"),
        (lambda: s.Plateau(threshold=1), "Plateau.threshold", "threshold = 1", "below 1"),
        (lambda: s.Measure(-1), "Measure.every", "every = -1", "give 0 or more"),
        (lambda: s.Measure(first=1.5), "Measure.first", "first = 1.5", "give 0 or more"),
        (lambda: replace(DEEP, seed=-1), "Spec.seed", "seed = -1", "give 0 or more"),
        (lambda: replace(DEEP, dtype="float16"), "Spec.dtype", "'float16'", "did you mean"),
        (lambda: replace(DEEP, data="digits"), "Spec.data", "data = 'digits'", "pass one"),
        (
            lambda: replace(DEEP, optimiser=s.GradientDescent(), training=s.Training(3, 8)),
            "Spec.training.batch_size",
            "batch_size = 8",
            "remove batch_size",
        ),
        (
            lambda: replace(DEEP, training=s.Training(early_stopping=s.EarlyStopping())),
            "Spec.training.early_stopping",
            "validation_fraction = 0",
            "set data.validation_fraction",
        ),
    ],
)
def test_a_bad_value_names_key_value_and_fix(make, place, came, fix):
    with pytest.raises(SpecError) as caught:
        make()
    assert caught.value.where == place
    assert came in caught.value.came
    assert fix in caught.value.fix


@pytest.mark.parametrize("optimiser", s.kinds(s.Optimiser).values())
@pytest.mark.parametrize("lr", [0, -0.1, math.nan, math.inf, 10**400, True, "1", None])
def test_a_learning_rate_is_positive_and_finite(optimiser, lr):
    with pytest.raises(SpecError, match="lr must be a finite number above 0") as caught:
        optimiser(lr=lr)
    assert caught.value.where == f"{optimiser.__name__}.lr"


def test_schedules_that_last_as_long_as_the_training_or_fit_into_it():
    parts = [s.WarmUp(30), s.WarmUp(0.1), s.CosineDecay(epochs=30), s.OneCycle(epochs=1e9)]
    assert scheduled(parts).schedule == tuple(parts)
    assert scheduled([s.CosineDecay(), s.OneCycle(), s.StepDecay(100)])


def test_parameters_of_activations():
    prelu, swish = s.Activation("prelu"), s.Activation("swish", beta=-2)
    assert [prelu.parameter, swish.parameter, s.Activation("tanh").parameter] == [0.25, -2.0, 0.0]
    assert [prelu.is_learned, swish.is_learned, s.Activation("elu").is_learned] == [1, 0, 0]
    assert s.Activation("swish", learned=True).is_learned
    assert not s.Activation("prelu", learned=False).is_learned


@pytest.mark.parametrize(
    ("path", "format_"),
    [
        ("a/b.NPZ", "npz"),
        ("a.csv", "table"),
        ("a.parquet", "table"),
        ("train-images-idx3-ubyte.gz", "idx"),
        ("train-images.idx3-ubyte", "idx"),
        ("a.idx.gz", "idx"),
        ("digits", None),
        ("a.gz", None),
    ],
)
def test_the_format_of_a_file_is_its_ending(path, format_):
    assert s.format_of(path) == format_


def test_paths_may_be_path_objects():
    data = s.Data(Path("a") / "b.csv", test=Path("c.csv"))
    assert (data.source, data.test) == (str(Path("a/b.csv")), "c.csv")


def test_batch_size_for():
    descent = replace(DEEP, optimiser=s.GradientDescent())
    explicit = replace(DEEP, training=s.Training(batch_size=7))
    assert [spec.batch_size_for(100) for spec in (DEEP, descent, explicit)] == [64, 100, 7]
    assert DEEP.batch_size_for(20) == 20


# flatten ------------------------------------------------------------------------------------------


def expanded(layers, where):
    """The definition of flatten, by recursion."""
    for i, layer in enumerate(layers):
        if isinstance(layer, s.Repeat):
            yield from layer.times * list(expanded(layer.layers, f"{where}[{i}].layers"))
        else:
            yield f"{where}[{i}]", layer


@given(layer_lists)
def test_flatten_is_its_recursive_definition(layers):
    network = s.Network(layers)
    first = itertools.islice(s.flatten(network.layers), 2000)
    assert list(first) == list(itertools.islice(expanded(layers, "network.layers"), 2000))


def test_flatten_writes_out_ten_thousand_layers():
    block = [s.Dense(4), s.Residual([s.Repeat(3, [s.Dense(4)])])]
    layers = (s.Repeat(5000, block), s.Dense(2))
    flat = list(s.flatten(layers))
    assert len(flat) == 10_001
    assert flat[-2][0] == "network.layers[0].layers[1]"
    path, residual = flat[1]
    inner = list(s.flatten(residual.layers, path + ".layers"))
    assert inner == 3 * [("network.layers[0].layers[1].layers[0].layers[0]", s.Dense(4))]


def nested(depth):
    layer = s.Dense(4)
    for _ in range(depth):
        layer = s.Residual([layer])
    return layer


def test_nesting_has_a_limit():
    assert s.Network([nested(s.MAX_NESTING)])
    with pytest.raises(SpecError, match=f"nest deeper than {s.MAX_NESTING}"):
        nested(s.MAX_NESTING + 2)
    with pytest.raises(SpecError, match="nest deeper"):
        s.Network([nested(s.MAX_NESTING + 1)])


def test_repeats_of_repeats_have_a_limit():
    assert s.Network([s.Repeat(1000, [s.Repeat(1000, [s.Dense(4)])])])
    with pytest.raises(SpecError, match="more than 1000000 layers"):
        s.Network([s.Repeat(1000, [s.Repeat(1000, [s.Dense(4)]), s.Dense(4)])])
    layer = s.Dense(4)
    for _ in range(12):  # 2^12 layers in 12 objects
        layer = s.Residual([layer, layer])
    with pytest.raises(SpecError, match="more than 1000000 layers"):
        s.Residual([layer] * 245)


@pytest.mark.parametrize("block", [s.Residual, lambda layers: s.Repeat(7, layers)])
@pytest.mark.parametrize("norm", [s.LayerNorm, s.RMSNorm, s.BatchNorm])
def test_an_eps_that_rounds_to_0_is_refused(norm, block):
    """Half the least float32 is rounded to even, which is 0; a little more is not."""
    half = 2.0**-150

    def spec(eps, dtype="float32"):
        layers = (s.Dense(3), block((s.Dense(3), norm(eps=eps))))
        return s.Spec(s.Data("iris"), s.Network(layers), dtype=dtype)

    with pytest.raises(SpecError, match="eps must be above 0 in float32") as e:
        spec(half)
    assert e.value.where == "Spec.network.layers[1].layers[1].eps"
    assert "rounds to 0" in e.value.came
    assert "float64" in e.value.fix
    assert np.float32(half) == 0 < np.float32(half * 1.001)
    assert spec(half * 1.001).dtype == "float32"
    assert spec(half, "float64").dtype == "float64"


@pytest.mark.parametrize("key", ["lr", "eps"])
@pytest.mark.parametrize("kind", [s.AdaGrad, s.RMSProp, s.Adam, s.AdamW])
def test_a_number_of_an_optimiser_that_rounds_to_0_is_refused(kind, key):
    network = s.Network((s.Dense(3),))
    with pytest.raises(SpecError, match=f"{key} must be above 0 in float32") as e:
        s.Spec(s.Data("iris"), network, kind(**{key: 1e-50}))
    assert e.value.where == f"Spec.optimiser.{key}"
    s.Spec(s.Data("iris"), network, kind(**{key: 1e-50}), dtype="float64")
