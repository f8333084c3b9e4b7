"""Specs: what they accept, their TOML form, errors that name file and key, and patches."""

from __future__ import annotations

import itertools
import math
import pickle
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from isograd.errors import SpecError
from isograd.nn import spec as s
from isograd.nn import toml
from isograd.nn.template import TEMPLATE

# Random specs ------------------------------------------------------------------------------------

finite = st.floats(allow_infinity=False, allow_nan=False)
positive = st.floats(0, exclude_min=True, allow_infinity=False, allow_nan=False)
unit = st.floats(0, 1, exclude_max=True)
inside = st.floats(0, 1, exclude_min=True, exclude_max=True)
maybe = st.none() | positive
counts = st.integers(1, 2**63 - 1)
inits = st.one_of(
    st.just(s.Zeros()),
    st.builds(s.Constant, finite),
    st.builds(s.Normal, positive),
    st.builds(s.Uniform, positive),
    st.builds(s.LSUV, positive, positive, st.integers(1, 1000)),
    *(
        st.builds(scheme, st.sampled_from(["normal", "uniform"]), maybe)
        for scheme in (s.Xavier, s.He, s.LeCun)
    ),
    st.builds(s.Orthogonal, maybe),
    st.builds(s.Critical, maybe, st.sampled_from(["normal", "orthogonal"]), positive),
)
leaves = st.one_of(
    st.builds(s.Dense, st.integers(1, s.MAX_UNITS), st.booleans(), st.none() | inits),
    st.builds(s.Activation, st.sampled_from(s.ACTIVATION_NAMES)),
    st.builds(s.Activation, st.sampled_from(["leaky_relu", "elu"]), maybe),
    st.builds(s.Activation, st.just("prelu"), maybe, learned=st.none() | st.booleans()),
    st.builds(s.Activation, st.just("swish"), beta=finite, learned=st.none() | st.booleans()),
    st.builds(s.Dropout, unit),
    st.builds(s.LayerNorm, positive),
    st.builds(s.RMSNorm, positive),
    st.builds(s.BatchNorm, positive, st.floats(0, 1, exclude_min=True)),
    st.builds(s.Scale, finite, st.booleans()),
)


def blocks(inner):
    some = st.lists(inner, min_size=1, max_size=3)
    return st.builds(s.Residual, some) | st.builds(s.Repeat, st.integers(1, 20), some)


layer_lists = st.lists(st.recursive(leaves, blocks, max_leaves=6), min_size=1, max_size=5)
descents = st.builds(s.GradientDescent, positive)
optimisers = st.one_of(
    st.builds(s.SGD, positive),
    st.builds(s.Momentum, positive, unit),
    st.builds(s.Nesterov, positive, unit),
    st.builds(s.AdamW, positive, unit, unit, positive, unit),
    st.builds(s.AdaGrad, positive, positive),
    st.builds(s.RMSProp, positive, unit, positive),
    st.builds(s.Adam, positive, unit, unit, positive),
)
losses = st.one_of(
    *(st.builds(loss, unit) for loss in (s.HalfSquaredError, s.MeanSquaredError)),
    st.builds(s.Huber, unit, positive),
    st.builds(s.BinaryCrossEntropy, unit, st.sampled_from(["logits", "probabilities"])),
    st.builds(s.SoftmaxCrossEntropy, unit, st.none() | st.lists(positive, min_size=1, max_size=4)),
)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
files = [names.map(lambda name, end=end: name + end) for end in s.FILE_TYPES]
idx = files[3] | files[4]
data = st.one_of(
    st.builds(
        s.Data,
        st.sampled_from(s.BUILT_IN_DATA) | files[0],
        test_fraction=inside,
        validation_fraction=unit,
        standardise=st.booleans() | st.just("jointly"),
        stratify=st.booleans(),
        missing=st.sampled_from(["refuse", "mean", "median", "drop"]),
    ),
    st.builds(s.Data, files[1] | files[2], names, test=st.none() | files[1]),
    st.builds(s.Data, idx, labels=idx, test=idx, test_labels=idx),
    st.builds(
        s.Data,
        st.sampled_from(s.SYNTHETIC_DATA),
        rows=st.none() | st.integers(10, 10**7),
        noise=st.none() | unit,
    ),
)
schedules = st.one_of(
    st.just(s.ConstantRate()),
    st.builds(s.StepDecay, positive, positive),
    st.builds(s.ExponentialDecay, positive),
    st.builds(s.CosineDecay, unit, st.none() | st.floats(1e19, 1e300)),
    st.builds(s.WarmUp, inside, positive),
    st.builds(s.OneCycle, positive, unit, inside, st.none() | st.floats(1e19, 1e300)),
    st.builds(s.Plateau, inside, st.integers(0, 9), unit),
)


@st.composite
def specs(draw):
    optimiser = draw(descents | optimisers)
    batch = st.none() if isinstance(optimiser, s.GradientDescent) else st.none() | counts
    source, normalise = draw(data), draw(st.booleans())
    stop = st.none() | st.builds(s.EarlyStopping, st.integers(1, 9), unit)
    return s.Spec(
        source,
        s.Network(draw(layer_lists), draw(losses), draw(inits)),
        optimiser,
        s.Training(
            draw(counts),
            draw(batch),
            draw(maybe),
            None if normalise else draw(maybe),
            normalise,
            draw(st.lists(schedules, max_size=3)),
            draw(stop) if source.validation_fraction else None,
        ),
        s.Measure(draw(counts) - 1, draw(counts) - 1),
        draw(counts) - 1,
        draw(st.sampled_from(["float32", "float64"])),
    )


# The structs -------------------------------------------------------------------------------------

DEEP = s.Spec(
    s.Data("digits"),
    s.Network([s.Repeat(30, [s.Dense(32), s.Activation("logistic")]), s.Dense(10)]),
)


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


# flatten -----------------------------------------------------------------------------------------


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


# TOML --------------------------------------------------------------------------------------------


@given(specs())
@settings(max_examples=100, deadline=None)
def test_round_trip_is_exact(spec):
    text = toml.dumps(spec)
    again = toml.loads(text, anywhere=True)
    assert again == spec
    assert toml.dumps(again) == text
    assert msgspec.convert(msgspec.to_builtins(spec), s.Spec) == spec


def test_layout():
    spec = s.Spec(
        s.Data("a.csv", "y"),
        s.Network(
            [
                s.Dense(64, bias=False, init=s.He(gain=1)),
                s.Repeat(3, [s.Residual([s.LayerNorm(), s.Activation("elu", 0.5)])]),
            ],
            s.HalfSquaredError(1e-4),
            s.Critical(),
        ),
        s.Adam(),
        s.Training(5),
        s.Measure(first=0),
        seed=3,
        dtype="float64",
    )
    text = """\
seed = 3
dtype = "float64"

[data]
source = "a.csv"
target = "y"

[network]
layers = [
  { kind = "dense", units = 64, bias = false, init = { kind = "he", gain = 1.0 } },
  { kind = "repeat", times = 3, layers = [
    { kind = "residual", layers = [
      { kind = "layer_norm" },
      { kind = "activation", name = "elu", alpha = 0.5 },
    ] },
  ] },
]
loss = { kind = "half_squared_error", l2 = 0.0001 }
init = { kind = "critical" }

[optimiser]
kind = "adam"

[training]
epochs = 5

[measure]
first = 0
"""
    assert toml.dumps(spec) == text
    assert toml.loads(text) == spec


def test_defaults_are_left_out_and_mean_the_same():
    text = '[data]\nsource = "digits"\n\n[network]\nlayers = [\n  { kind = "layer_norm" },\n]\n'
    spec = s.Spec(s.Data("digits"), s.Network([s.LayerNorm()]))
    assert toml.dumps(spec) == text
    assert toml.loads(text) == spec


HEAD = '[data]\nsource = "digits"\n[network]\nlayers = [{kind = "dense", units = 3}, %s]\n'
AT = "network.layers[1]"


def in_layers(layer):
    return HEAD % layer


def after(text):
    return HEAD % '{kind = "layer_norm"}' + text


@pytest.mark.parametrize(
    ("text", "where", "came", "fix"),
    [
        ("a = ", "x.toml:1:5", "Invalid value: 'a ='", "this line"),
        ("a = [\n3,\n'y\n", "x.toml:4:1", "Expected", "this line"),
        ("a = 1\nb b\n", "x.toml:2:3", "'b b'", "this line"),
        ("seed = " + "9" * 5000, "x.toml", "digits", ""),
        ("", "x.toml: data", "no keys", 'source = "digits"'),
        ("[data]\nsource = 'iris'", "x.toml: network", "only 'data'", "[network]"),
        ("data = 3", "x.toml: data", "data = 3", "add [data]"),
        ("dtpe = 'x'\n" + after(""), "x.toml: dtpe", "'dtpe'", "'dtype'"),
        ("dtype = 'float61'\n" + after(""), "x.toml: dtype", "'float61'", "'float64'"),
        ("seed = -1\n" + after(""), "x.toml: seed", "seed = -1", "give 0 or more"),
        ("seed = 1.5\n" + after(""), "x.toml: seed", "seed = 1.5", "such as 32"),
        ("seed = 2020-01-01\n" + after(""), "x.toml: seed", "2020", "such as 32"),
        ("seed = 0x" + "f" * 5000 + "\n" + after(""), "x.toml: seed", "seed = int", "or less"),
        (in_layers('{kind = "dens"}'), f"x.toml: {AT}.kind", "kind = 'dens'", "'dense'"),
        (in_layers("{kind = 3}"), f"x.toml: {AT}.kind", "kind = 3", "quotes"),
        (in_layers("{units = 3}"), f"x.toml: {AT}.kind", "only 'units'", "layer_norm"),
        (in_layers("3"), f"x.toml: {AT}", "3", "a table"),
        (in_layers('{kind = "dense"}'), f"x.toml: {AT}.units", "only 'kind'", "units = 32"),
        (in_layers('{kind = "dense", unit = 3}'), f"x.toml: {AT}.unit", "'unit'", "'units'"),
        (in_layers('{kind = "dense", "a b" = 3}'), f"x.toml: {AT}.'a b'", "'a b'", "known: bias"),
        (in_layers('{kind = "dense", units = 0}'), f"x.toml: {AT}.units", "units = 0", "1 or more"),
        (in_layers('{kind = "dense", units = "3"}'), f"x.toml: {AT}.units", "'3'", "quotes"),
        (
            in_layers('{kind = "residual", layers = []}'),
            f"x.toml: {AT}.layers",
            "layers = ()",
            "add a layer",
        ),
        (
            in_layers(
                '{kind = "repeat", times = 2, layers = [{kind = "activation", name = "tan"}]}'
            ),
            f"x.toml: {AT}.layers[0].name",
            "name = 'tan'",
            "'tanh'",
        ),
        (
            in_layers('{kind = "dense", units = 3, init = {kind = "he", gian = 2}}'),
            f"x.toml: {AT}.init.gian",
            "'gian'",
            "'gain'",
        ),
        (
            in_layers('{kind = "dense", units = 3, init = {kind = "he", distribution = "no"}}'),
            f"x.toml: {AT}.init.distribution",
            "distribution = 'no'",
            "known: normal, uniform",
        ),
        (after('[optimiser]\nkind = "adm"'), "x.toml: optimiser.kind", "'adm'", "'adam'"),
        (after("[optimiser]\nlr = 1"), "x.toml: optimiser.kind", "only 'lr'", "sgd"),
        (after('[optimiser]\nkind = "sgd"\nlr = nan'), "x.toml: optimiser.lr", "nan", "above 0"),
        (
            after('[optimiser]\nkind = "sgd"\nlr = 1' + "0" * 400),
            "x.toml: optimiser.lr",
            "lr = 1000",
            "smaller",
        ),
        (after('[training]\nclip = "x"'), "x.toml: training.clip", "'clip'", "'clip_"),
        (after("[training]\nepochs = true"), "x.toml: training.epochs", "True", "such as 32"),
        *(
            (after("[training]\n" + text), f"x.toml: training.{where}", came, fix)
            for text, where, came, fix in (
                ("schedule = 3", "schedule", "schedule = 3", "square brackets"),
                ('schedule = {kind = "cosine"}', "schedule", "'cosine'", "square brackets"),
                ("schedule = [3]", "schedule[0]", "3", "a table"),
                ("schedule = [{}]", "schedule[0].kind", "no keys", "cosine, warm_up"),
                ('schedule = [{kind = "cosin"}]', "schedule[0].kind", "'cosin'", "'cosine'"),
                ('[[training.schedule]]\nkind = "stp"', "schedule[0].kind", "'stp'", "'step'"),
                (
                    'schedule = [{kind = "cosine"}, {kind = "step", evry = 3}]',
                    "schedule[1].evry",
                    "'evry'",
                    "'every'",
                ),
                (
                    '[[training.schedule]]\nkind = "step"\nevry = 3',
                    "schedule[0].evry",
                    "'evry'",
                    "'every'",
                ),
                ('schedule = [{kind = "step"}]', "schedule[0].every", "only 'kind'", "every = 10"),
                ('schedule = [{kind = "warm_up"}]', "schedule[0].epochs", "only 'kind'", "= 5"),
                (
                    'schedule = [{kind = "plateau", factor = "a"}]',
                    "schedule[0].factor",
                    "factor = 'a'",
                    "quotes",
                ),
                (
                    'schedule = [{kind = "plateau"}, {kind = "warm_up", epochs = 99}]',
                    "schedule[1].epochs",
                    "epochs = 99 with training.epochs = 30",
                    "30 or less",
                ),
                ("early_stopping = true", "early_stopping", "True", "a table"),
                ("early_stopping = {}", "early_stopping", "= 0", "data.validation_fraction"),
                (
                    "[training.early_stopping]\npatence = 3",
                    "early_stopping.patence",
                    "'patence'",
                    "'patience'",
                ),
                (
                    "[training.early_stopping]\npatience = 0",
                    "early_stopping.patience",
                    "patience = 0",
                    "1 or more",
                ),
            )
        ),
        *(
            (HEAD.replace("[network]", text + "\n[network]") % "", f"x.toml: data.{key}", came, fix)
            for text, key, came, fix in (
                ('standardise = "joint"', "standardise", "'joint'", "'jointly'"),
                ("standardise = 1", "standardise", "= 1", "known: false, jointly, true"),
                ('missing = "men"', "missing", "'men'", "'mean'"),
                ("missing = 1", "missing", "= 1", "known: drop, mean"),
                ("rows = 1e3", "rows", "rows = 1000.0", "decimals"),
                ("test = 3", "test", "test = 3", "quotes"),
                ("tests = 3", "tests", "'tests'", "'test'"),
            )
        ),
        *(
            (
                after(f'loss = {{kind = "softmax_cross_entropy", class_weights = {weights}}}'),
                f"x.toml: network.loss.class_weights{place}",
                came,
                fix,
            )
            for weights, place, came, fix in (
                ("3", "", "class_weights = 3", "square brackets"),
                ("[]", "", "class_weights = ()", "above 0"),
                ("[1, -2]", "", "-2", "correct -2"),
                ('[1, "a"]', "[1]", "'a'", "quotes"),
            )
        ),
        (
            after('[optimiser]\nkind = "gradient_descent"\n[training]\nbatch_size = 3'),
            "x.toml: training.batch_size",
            "batch_size = 3",
            "remove",
        ),
        (after('["x` - at `$.data"]'), "x.toml: 'x` - at `$.data'", "x` - at", "known: data"),
        ('"x` - at `$.network" = 3', "x.toml: 'x` - at `$.network'", "x` - at", "known: data"),
    ],
)
def test_an_error_names_file_key_value_and_fix(text, where, came, fix):
    with pytest.raises(SpecError) as caught:
        toml.loads(text, where="x.toml")
    assert caught.value.where == where
    assert came in caught.value.came
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("text", "must"),
    [
        (in_layers("3"), "a layer must be a table"),
        (after("[training]\nschedule = [3]"), "a schedule must be a table"),
        (
            after('loss = {kind = "softmax_cross_entropy", class_weights = [true]}'),
            "a class weight must be a number",
        ),
        (HEAD.replace('"digits"', "3") % "", "source must be a string"),
    ],
)
def test_an_error_says_what_it_is_that_is_wrong(text, must):
    with pytest.raises(SpecError) as caught:
        toml.loads(text)
    assert caught.value.must == must


OUTSIDE = [
    "/a.csv",
    "//host/share/a.csv",
    "\\a.csv",
    "\\\\host\\share\\a.csv",
    "C:/a.csv",
    "c:\\a.csv",
    "C:a.csv",
    "~/a.csv",
    "~root/a.csv",
    "../a.csv",
    "..\\a.csv",
    "a/../../b.csv",
    "a\\..\\..\\b.csv",
    "./../a.csv",
    "a/b/../../../c.csv",
    "a//../../b.csv",
    "../a/../a.csv",
    ".. /a.csv",
    "a/.../.. ./b.csv",
]
INSIDE = ["a.csv", "./a.csv", "a/b.csv", "a/../b.csv", "a/./b/../../c.csv", "..a.csv", "a../b.csv"]


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ("source = {}", "source"),
        ('source = "in.csv"\ntest = {}', "test"),
        ('source = "in.idx"\nlabels = {}', "labels"),
        ('source = "in.idx"\nlabels = "b.idx"\ntest = "c.idx"\ntest_labels = {}', "test_labels"),
    ],
)
def test_a_text_must_not_name_data_outside_its_folder(data, key, tmp_path: Path):
    for path in OUTSIDE + INSIDE:
        name = path.replace(".csv", ".idx") if "idx" in data else path
        text = HEAD.replace('source = "digits"', data.format(f"'{name}'")) % ""
        (tmp_path / "x.toml").write_text(text)
        spec = toml.loads(text, anywhere=True)
        assert getattr(spec.data, key) == name
        assert toml.load(tmp_path / "x.toml", anywhere=True) == spec
        if path in INSIDE:
            assert toml.loads(text) == toml.load(tmp_path / "x.toml") == spec
            continue
        with pytest.raises(SpecError, match="must not name data outside its folder") as caught:
            toml.load(tmp_path / "x.toml")
        assert caught.value.where == f"{tmp_path / 'x.toml'}: data.{key}"
        assert caught.value.came == f"{key} = {name!r}"
        assert "--data" in caught.value.fix


def test_a_spec_made_in_python_may_name_data_anywhere(tmp_path: Path):
    spec = replace(DEEP, data=s.Data(tmp_path / "a.csv"))
    patched = toml.patch(toml.dumps(spec), spec, replace(spec, seed=3))
    assert toml.loads(patched, anywhere=True) == replace(spec, seed=3)


@pytest.mark.parametrize("depth", [40, 400, 40_000])
def test_deep_nesting_is_an_error_not_a_crash(depth):
    layer = '{kind = "residual", layers = [' * depth + '{kind = "layer_norm"}' + "]}" * depth
    with pytest.raises(SpecError, match="must not nest deeper than 32"):
        toml.loads(in_layers(layer))


def test_load(tmp_path: Path):
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbf" + toml.dumps(DEEP).replace("\n", "\r\n").encode())
    assert toml.load(path) == DEEP
    path.write_text("seed = 'x'\n" + toml.dumps(DEEP))
    with pytest.raises(SpecError) as caught:
        toml.load(path)
    assert caught.value.where == f"{path}: seed"
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(SpecError, match="must be UTF-8 text"):
        toml.load(path)
    for bad, came in ((tmp_path / "no.toml", "No such file"), (tmp_path, "directory"), ("\0", "")):
        with pytest.raises(SpecError, match="must be a file that can be read") as caught:
            toml.load(bad)
        assert came in caught.value.came


# Patches -----------------------------------------------------------------------------------------

FILE = """\
# Thirty layers of sigmoid.
seed = 3

[data]
source = "digits"  # 1797 images

[network]
# the trunk
layers = [
  # the block
  { kind = "repeat", times = 30, layers = [
    { kind = "dense", units = 32 },  # weights
    { kind = "activation", name = "logistic" },  # σ
  ] },
  { kind = "dense", units = 10 },
]
loss = { kind = "softmax_cross_entropy" }

# the rule
[optimiser]
kind = "sgd"
lr = 0.2  # rate

# the end
[measure]
every = 3
"""
SPEC = toml.loads(FILE)
DENSE, SIGMA = SPEC.network.layers[0].layers


def block(*layers):
    first = replace(SPEC.network.layers[0], layers=layers)
    network = replace(SPEC.network, layers=[first, *SPEC.network.layers[1:]])
    return replace(SPEC, network=network)


def network(**changes):
    return replace(SPEC, network=replace(SPEC.network, **changes))


@pytest.mark.parametrize(
    ("new", "lines"),
    [
        (
            block(DENSE, s.Activation("tanh")),
            """\
-    { kind = "activation", name = "logistic" },  # σ
+    { kind = "activation", name = "tanh" },  # σ
""",
        ),
        (block(DENSE, s.LayerNorm(), SIGMA), '+    { kind = "layer_norm" },\n'),
        (block(s.LayerNorm(), DENSE, SIGMA), '+    { kind = "layer_norm" },\n'),
        (block(DENSE, SIGMA, s.LayerNorm()), '+    { kind = "layer_norm" },\n'),
        (block(DENSE), '-    { kind = "activation", name = "logistic" },  # σ\n'),
        (
            block(s.Residual([DENSE, SIGMA])),
            """\
+   { kind = "residual", layers = [
+   ] },
""",
        ),
        (
            block(s.Residual([s.LayerNorm(), DENSE, SIGMA])),
            """\
+   { kind = "residual", layers = [
+    { kind = "layer_norm" },
+   ] },
""",
        ),
        (
            block(replace(DENSE, init=s.Orthogonal()), SIGMA),
            """\
-    { kind = "dense", units = 32 },  # weights
+    { kind = "dense", units = 32, init = { kind = "orthogonal" } },  # weights
""",
        ),
        (
            network(layers=[replace(SPEC.network.layers[0], times=9), s.Dense(10)]),
            """\
-  { kind = "repeat", times = 30, layers = [
+  { kind = "repeat", times = 9, layers = [
""",
        ),
        (network(init=s.Critical(2)), '+init = { kind = "critical", q = 2.0 }\n'),
        (
            network(loss=s.HalfSquaredError(0.5)),
            """\
-loss = { kind = "softmax_cross_entropy" }
+loss = { kind = "half_squared_error", l2 = 0.5 }
""",
        ),
        (replace(SPEC, optimiser=s.SGD(0.02)), "-lr = 0.2  # rate\n+lr = 0.02  # rate\n"),
        (
            replace(SPEC, optimiser=s.Adam()),
            """\
-kind = "sgd"
-lr = 0.2  # rate
+kind = "adam"
+lr = 0.001  # rate
""",
        ),
        (
            replace(SPEC, optimiser=s.Momentum(0.2, 0.5)),
            """\
-kind = "sgd"
+kind = "momentum"
+momentum = 0.5
""",
        ),
        (replace(SPEC, training=s.Training(clip_norm=1)), "+\n+[training]\n+clip_norm = 1.0\n"),
        (replace(SPEC, measure=s.Measure(3, 0)), "+first = 0\n"),
        (replace(SPEC, dtype="float64"), '+dtype = "float64"\n'),
        (replace(SPEC, seed=0), "-seed = 3\n+seed = 0\n"),
        (SPEC, ""),
    ],
)
def test_a_patch_changes_only_the_lines_it_must(new, lines):
    patched = toml.patch(FILE, SPEC, new)
    assert toml.loads(patched) == new
    changes = toml.diff(FILE, patched, "x.toml").splitlines(keepends=True)[2:]
    assert "".join(line for line in changes if line[0] in "+-") == lines


# Lists of numbers and of tables, and a table in a table: inline, and as sections of their own.
INLINE = """\
[data]
source = "a.csv"  # mine
validation_fraction = 0.1  # to stop by

[network]
layers = [{ kind = "dense", units = 3 }]
loss = { kind = "softmax_cross_entropy", class_weights = [1, 2, 3] }  # rare ones

[training]
schedule = [
  { kind = "warm_up", epochs = 2 },  # up
  { kind = "cosine" },  # down
]
early_stopping = { patience = 3 }  # soon
"""
SECTIONS = (
    INLINE[: INLINE.index("schedule")]
    + """\
# the schedule
[[training.schedule]]
kind = "warm_up"
epochs = 2  # up

[[training.schedule]]
kind = "cosine"  # down

[training.early_stopping]
patience = 3  # soon
"""
)
NESTED = toml.loads(INLINE)
RISE, FALL = NESTED.training.schedule


def training(**changes):
    return replace(NESTED, training=replace(NESTED.training, **changes))


def source(**changes):
    return replace(NESTED, data=replace(NESTED.data, **changes))


def loss(**changes):
    network = replace(NESTED.network, loss=replace(NESTED.network.loss, **changes))
    return replace(NESTED, network=network)


WEIGHTED = 'loss = { kind = "softmax_cross_entropy", class_weights = '


@pytest.mark.parametrize(
    ("new", "inline", "sections"),
    [
        (
            training(schedule=[replace(RISE, epochs=2.5), FALL]),
            """\
-  { kind = "warm_up", epochs = 2 },  # up
+  { kind = "warm_up", epochs = 2.5 },  # up
""",
            "-epochs = 2  # up\n+epochs = 2.5  # up\n",
        ),
        (
            training(schedule=[RISE, replace(FALL, final=0.5)]),
            """\
-  { kind = "cosine" },  # down
+  { kind = "cosine", final = 0.5 },  # down
""",
            "+final = 0.5\n",
        ),
        (training(schedule=[RISE]), '-  { kind = "cosine" },  # down\n', None),
        (training(schedule=[RISE, s.Plateau(), FALL]), '+  { kind = "plateau" },\n', None),
        (
            training(schedule=()),
            """\
-schedule = [
-  { kind = "warm_up", epochs = 2 },  # up
-  { kind = "cosine" },  # down
-]
""",
            """\
-[[training.schedule]]
-kind = "warm_up"
-epochs = 2  # up
-
-[[training.schedule]]
-kind = "cosine"  # down
-
""",
        ),
        (
            training(early_stopping=s.EarlyStopping(4)),
            """\
-early_stopping = { patience = 3 }  # soon
+early_stopping = { patience = 4 }  # soon
""",
            "-patience = 3  # soon\n+patience = 4  # soon\n",
        ),
        (
            training(early_stopping=s.EarlyStopping(3, 0.5)),
            """\
-early_stopping = { patience = 3 }  # soon
+early_stopping = { patience = 3, min_delta = 0.5 }  # soon
""",
            "+min_delta = 0.5\n",
        ),
        (
            training(early_stopping=None),
            "-early_stopping = { patience = 3 }  # soon\n",
            "-[training.early_stopping]\n-patience = 3  # soon\n",
        ),
        (training(normalise_gradient=True), *2 * ["+normalise_gradient = true\n"]),
        (
            loss(class_weights=[1, 2, 4]),
            *2
            * [
                f"-{WEIGHTED}[1, 2, 3] }}  # rare ones\n"
                f"+{WEIGHTED}[1.0, 2.0, 4.0] }}  # rare ones\n"
            ],
        ),
        (
            loss(class_weights=None),
            *2
            * [
                f"-{WEIGHTED}[1, 2, 3] }}  # rare ones\n"
                '+loss = { kind = "softmax_cross_entropy" }  # rare ones\n'
            ],
        ),
        (source(standardise="jointly"), *2 * ['+standardise = "jointly"\n']),
        (
            source(target="y", test="b.csv", missing="drop"),
            *2 * ['+target = "y"\n+test = "b.csv"\n+missing = "drop"\n'],
        ),
        (
            replace(NESTED, data=s.Data("moons", validation_fraction=0.1, rows=99, noise=0)),
            *2
            * ['-source = "a.csv"  # mine\n+source = "moons"  # mine\n+rows = 99\n+noise = 0.0\n'],
        ),
    ],
)
def test_a_patch_of_a_list_or_a_table_in_a_table(new, inline, sections):
    for text, lines in ((INLINE, inline), (SECTIONS, sections)):
        assert toml.loads(text) == NESTED
        patched = toml.patch(text, NESTED, new)
        assert toml.loads(patched) == new
        changes = toml.diff(text, patched, "x.toml").splitlines(keepends=True)[2:]
        changed = "".join(line for line in changes if line[0] in "+-")
        # Tables cannot be moved in an array of them: their section alone is written anew.
        assert changed == lines or lines is None
        assert patched[: patched.index("[training]")] == text[: text.index("[training]")] or (
            new.training == NESTED.training
        )


def test_a_list_or_a_table_in_a_table_is_added():
    old = replace(NESTED, training=s.Training(clip_value=2))
    text = "# a\n" + toml.dumps(old) + "# b\n"
    new = replace(old, training=replace(NESTED.training, clip_value=2))
    assert toml.patch(text, old, new) == text.replace(
        "clip_value = 2.0\n",
        """\
clip_value = 2.0
schedule = [
  { kind = "warm_up", epochs = 2.0 },
  { kind = "cosine" },
]
early_stopping = { patience = 3 }
""",
    )


def test_a_key_is_added_below_the_last_and_above_the_comment_of_the_next_section():
    patched = toml.patch(FILE, SPEC, replace(SPEC, optimiser=s.Momentum(0.2, 0.5)))
    assert "lr = 0.2  # rate\nmomentum = 0.5\n\n# the end\n[measure]" in patched
    patched = toml.patch(FILE, SPEC, network(init=s.He()))
    assert '}\ninit = { kind = "he" }\n\n# the rule\n[optimiser]' in patched


def test_a_key_that_no_longer_applies_is_removed_in_its_line():
    text = FILE.replace('name = "logistic"', 'name = "elu", alpha = 0.5')
    assert toml.patch(text, toml.loads(text), SPEC) == FILE
    text = FILE.replace('kind = "sgd"\n', 'kind = "momentum"\nmomentum = 0.5\n')
    assert toml.patch(text, toml.loads(text), SPEC) == FILE


@given(specs(), specs())
@settings(max_examples=60, deadline=None)
def test_any_patch_decodes_to_the_new_spec(old, new):
    assert toml.loads(toml.patch(toml.dumps(old), old, new), anywhere=True) == new


OTHER_FORMS = [
    """\
network.layers = [{kind = "dense", units=3}, {kind="activation",name="elu",alpha=2}]
data.source="iris"
training = { epochs = 3 }
optimiser = {kind = "adam"}""",
    """\
# data
[data]
source="iris"
# hi
[network.init] # in
kind="he"
[network]
layers=[{kind="dense",units=3}, # c
    {kind="layer_norm"}
    # last
]
[optimiser]
lr=3
# e
kind="sgd"
""",
    """\
[data]
source="iris"
validation_fraction = 0.5
[[training.schedule]] # first
kind = "step"
every = 3
[[network.layers]]
kind = "repeat"
times = 3 # three
[[network.layers.layers]]
kind="dense"
units=3 # hi
[[network.layers]]
kind="dense"
units=5
[network.loss]
kind="softmax_cross_entropy"
class_weights = [
  1, # one
  2,
]
l2 = 1
[training.early_stopping]
""",
    FILE,
]


@pytest.mark.parametrize("text", OTHER_FORMS)
@given(new=specs())
@settings(max_examples=25, deadline=None)
def test_any_form_of_toml_can_be_patched(text, new):
    old = toml.loads(text)
    assert toml.loads(toml.patch(text, old, new), anywhere=True) == new
    near = replace(old, network=replace(old.network, layers=[*old.network.layers, s.LayerNorm()]))
    assert toml.loads(toml.patch(text, old, near)) == near


def test_values_of_an_array_of_tables_are_edited_in_place():
    text = OTHER_FORMS[2]
    old = toml.loads(text)
    new = replace(old, network=replace(old.network, layers=[s.Repeat(4, [s.Dense(3)]), s.Dense(5)]))
    assert toml.patch(text, old, new) == text.replace("times = 3", "times = 4")
    # Layers cannot be moved there: [network] is written anew, the rest stays.
    new = replace(old, network=replace(old.network, layers=[s.Dense(5)]))
    patched = toml.patch(text, old, new)
    assert toml.loads(patched) == new
    assert patched.startswith(text.partition("[[network")[0] + "[network]\nlayers = [\n")


def test_a_patch_keeps_line_ends():
    text = FILE.replace("\n", "\r\n")
    new = block(DENSE, s.LayerNorm(), SIGMA)
    patched = toml.patch(text, SPEC, new)
    assert patched.replace("\r\n", "\n") == toml.patch(FILE, SPEC, new)
    assert patched.count("\n") == patched.count("\r\n")


def test_a_patch_needs_the_text_of_the_old_spec():
    with pytest.raises(SpecError, match="the text that the old spec was read from"):
        toml.patch(FILE, replace(SPEC, seed=4), SPEC)


@pytest.mark.skipif(not shutil.which("patch"), reason="needs patch(1)")
@pytest.mark.parametrize("ends", [("", ""), ("\n", ""), ("", "\n"), ("\n", "\n"), ("\n", "\n\n")])
def test_a_diff_can_be_applied(tmp_path: Path, ends):
    old, new = "a = 1\nb = '\u2028'\nc = 3" + ends[0], "a = 1\nb = 2\nc = 3" + ends[1]
    (tmp_path / "x.toml").write_text(old)
    difference = toml.diff(old, new, "x.toml")
    assert difference.startswith("--- a/x.toml\n+++ b/x.toml\n")
    command = ["patch", "-p1", "-d", tmp_path]
    subprocess.run(command, input=difference, text=True, check=True, capture_output=True)
    assert (tmp_path / "x.toml").read_text() == new
    assert toml.diff(old, old, "x.toml") == ""


def test_a_diff_of_many_like_layers_is_minimal():
    old = [s.Dense(3), s.Activation("logistic")] * 100
    new = [s.Dense(3), s.LayerNorm(), s.Activation("logistic")] * 100
    texts = [toml.dumps(network(layers=layers)) for layers in (old, new)]
    signs = [line[0] for line in toml.diff(*texts, "x").splitlines()[2:]]
    assert (signs.count("+"), signs.count("-")) == (100, 0)
    patched = toml.patch(texts[0], toml.loads(texts[0]), toml.loads(texts[1]))
    assert patched == texts[1]


def test_dumped_specs_are_plain_toml():
    text = toml.dumps(replace(SPEC, data=s.Data('a "b"\\\n\x7f.csv', "σ")))
    assert tomllib.loads(text)["data"] == {"source": 'a "b"\\\n\x7f.csv', "target": "σ"}


# The template ------------------------------------------------------------------------------------


def test_the_template_names_all_data_and_schedules():
    for name in (*s.SYNTHETIC_DATA, *s.kinds(s.Schedule)):
        assert re.search(rf"\b{name}\b", TEMPLATE)


@pytest.mark.parametrize("apart", ["clip_norm", "normalise_gradient"])
def test_what_the_template_leaves_out_can_be_put_in(apart):
    left_out = re.compile(r"(?m)^# (\w+) += .*$")
    keys = {match[1] for match in left_out.finditer(TEMPLATE)}
    assert keys > {apart, "schedule", "early_stopping", "target", "test", "missing"}
    text = left_out.sub(lambda match: match[0][2 * (match[1] != apart) :], TEMPLATE)
    spec = toml.loads(text.replace('"digits"', '"a.csv"'))
    put_in = {
        key for part in (spec.data, spec.training) for key in keys if getattr(part, key, None)
    }
    assert put_in == keys - {apart}
