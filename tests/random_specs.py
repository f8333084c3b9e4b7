"""Random specs of every kind, for hypothesis; and a deep one."""

from __future__ import annotations

from hypothesis import strategies as st

from isograd.nn import spec as s

finite = st.floats(allow_infinity=False, allow_nan=False)
positive = st.floats(2.0**-149, allow_infinity=False, allow_nan=False)  # in float32 too
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
    st.builds(
        s.VarianceScaling,
        unit,
        unit,
        st.sampled_from(["normal", "uniform", "orthogonal"]),
    ),
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
def precisions(draw):
    """Of any subset, but for what one needs of another."""
    forms = st.none() | st.sampled_from(["fp32", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2"])
    weights, activations, gradients = (draw(forms) for _ in range(3))
    if weights is activations is gradients is None:
        return None
    powers = st.integers(-126, 126).map(lambda n: 2.0**n)
    return s.Precision(
        weights,
        activations,
        gradients,
        draw(st.sampled_from(["nearest", "stochastic"])),
        draw(st.booleans()) if weights else True,
        draw(powers | st.just("dynamic")) if gradients else 1.0,
        draw(counts),
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
            draw(st.booleans()),
            draw(precisions()),
        ),
        s.Measure(draw(counts) - 1, draw(counts) - 1),
        draw(counts) - 1,
        draw(st.sampled_from(["float32", "float64"])),
    )


DEEP = s.Spec(
    s.Data("digits"),
    s.Network([s.Repeat(30, [s.Dense(32), s.Activation("logistic")]), s.Dense(10)]),
)
