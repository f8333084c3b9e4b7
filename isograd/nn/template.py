"""The spec that `isograd init` writes."""

TEMPLATE = """\
# What isograd trains. Needed are data.source and network.layers; every other key has the default
# shown, but for network.init.

seed = 0              # of the split, the parameters and the order of the data
dtype = "float32"     # or "float64"

[data]
source = "digits"     # digits, iris, wine, breast_cancer, diabetes, or a .csv or .npz file
# target = "price"    # the target column of a .csv; the last one by default
test_fraction = 0.2
standardise = true    # mean 0 and variance 1 per feature, fitted on the training part
stratify = true       # keep the shares of the classes in both parts

[network]
# Layers in order: dense, activation, layer_norm, and blocks of them: repeat and residual.
# Activations: identity, logistic, tanh, relu, leaky_relu, elu, selu, softplus, silu, gelu,
# scaled_sigmoid. The last dense layer has one unit per class or target.
layers = [
  { kind = "repeat", times = 3, layers = [
    { kind = "dense", units = 64 },
    { kind = "activation", name = "relu" },
  ] },
  { kind = "dense", units = 10 },
]
# softmax_cross_entropy, binary_cross_entropy or half_squared_error; l2 is λ in ½λ‖W‖².
loss = { kind = "softmax_cross_entropy", l2 = 0.0 }
# constant, normal, xavier (the default), he, lecun, orthogonal, or critical (χ₁ = 1 for the
# activation).
init = { kind = "he" }

[optimiser]
# gradient_descent (the whole training set), sgd, momentum, adagrad, rmsprop or adam.
kind = "sgd"
lr = 0.1

[training]
epochs = 30
batch_size = 64
# clip_value = 1.0    # bound on every element of the gradient
# clip_norm = 1.0     # bound on its global norm

[measure]
first = 10            # measure every one of the first steps,
every = 10            # then every tenth
"""
