"""The spec that `isograd init` writes."""

TEMPLATE = """\
# What isograd trains. Needed are data.source and network.layers; every other key has the default
# shown, but for network.init. Keys behind a # are left out.

seed = 0              # of the split, the parameters and the order of the data
dtype = "float32"     # or "float64"

[data]
# digits, iris, wine, breast_cancer, diabetes; moons, circles, blobs, spirals (drawn from the seed);
# or a file below this one's folder: .csv, .parquet, .npz, or .idx.gz as of MNIST.
source = "digits"
# target = "price"    # the target column of a .csv or .parquet; the last one by default
# test = "test.csv"   # a file of test rows; by default they are split off:
test_fraction = 0.2
# validation_fraction = 0.1   # of the other rows, to stop by (see training.early_stopping)
standardise = true    # mean 0 and variance 1 per feature, fitted on the training part
stratify = true       # keep the shares of the classes in all parts
# missing = "median"  # fill missing features (or "mean"), or "drop" their rows

[network]
# Layers in order: dense, activation, dropout, layer_norm, rms_norm, batch_norm, scale, and blocks
# of them: repeat and residual. The last dense layer has one unit per class or target.
# Activations: identity, logistic, tanh, relu, leaky_relu, elu, selu, softplus, silu, gelu,
# gelu_tanh, gelu_logistic, scaled_sigmoid, hard_tanh, lecun_tanh, erf, sine, softmax, and prelu and
# swish, which can be learned.
layers = [
  { kind = "repeat", times = 3, layers = [
    { kind = "dense", units = 64 },
    { kind = "activation", name = "relu" },
  ] },
  { kind = "dense", units = 10 },
]
# softmax_cross_entropy or binary_cross_entropy for classes; half_squared_error, mean_squared_error
# or huber for numbers; l2 is λ in ½λ‖W‖².
loss = { kind = "softmax_cross_entropy", l2 = 0.0 }
# zeros, constant, normal, uniform, xavier (the default), he, lecun, orthogonal, lsuv (variance 1 on
# a batch), critical (χ₁ = 1 for the activation), or variance_scaling (sigma_w2, sigma_b2).
init = { kind = "he" }

[optimiser]
# gradient_descent (the whole training set), sgd, momentum, nesterov, adagrad, rmsprop, adam, adamw.
kind = "sgd"
lr = 0.1

[training]
epochs = 30
batch_size = 64
# clip_value = 1.0    # bound on every element of the gradient
# clip_norm = 1.0     # bound on its global norm
# normalise_gradient = true   # divide it by its global norm instead
# Factors of lr: constant, step, exponential, cosine, warm_up, one_cycle, plateau.
# schedule = [{ kind = "warm_up", epochs = 2 }, { kind = "cosine" }]
# early_stopping = { patience = 10 }   # needs data.validation_fraction
# precision = { gradients = "fp16", loss_scale = "dynamic" }   # emulated; or bf16, fp8_e4m3
# recompute = true    # less memory, up to a third more work: the forward pass is run twice

[measure]
first = 10            # measure every one of the first steps;
# every = 10          # then every tenth; left out: as often as takes a twentieth of the time
moments = false       # keep means and spreads of every site of every step, too
"""
