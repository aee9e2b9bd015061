"""Names that options choose from, as types for a checker and as values, kept apart so that --help needs no torch."""

from typing import Final, Literal, TypeAlias, get_args

Convolution: TypeAlias = Literal["conv2d", "unfold"]
Dtype: TypeAlias = Literal["float32", "float64"]  # in which a network is trained and evaluated
Activation: TypeAlias = Literal["relu", "sigmoid", "tanh"]  # recognise's argument; not every network has all three
Mode: TypeAlias = Literal["ieee", "tf32", "bfloat16"]  # arithmetic of matrix products

# Layout of a file's arrays: the order of flattening, the axes of a convolution's weight and of an Affine's.
Flatten: TypeAlias = Literal["chw", "hwc"]
Kernels: TypeAlias = Literal["oihw", "hwio"]
Affine: TypeAlias = Literal["in-out", "out-in"]

# Options of a training run.
Data: TypeAlias = Literal["mnist", "drawn"]
Trained: TypeAlias = Literal["SimpleConvNet", "DeepConvNet", "LeNet5"]
Model: TypeAlias = Literal["conv2d", "unfold", "numpy"]
Sampling: TypeAlias = Literal["book", "epoch"]
Rule: TypeAlias = Literal["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam"]
Logged: TypeAlias = Literal["step", "after"]
Keep: TypeAlias = Literal["last", "mean"]
Precision: TypeAlias = Literal["full", "tf32", "bf16"]
Launched: TypeAlias = Literal["torch", "triton"]

CONVOLUTIONS: tuple[Convolution, ...] = get_args(Convolution)
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
IEEE: Final = "ieee"
TF32: Final = "tf32"
BFLOAT16: Final = "bfloat16"
FLATTEN: tuple[Flatten, ...] = get_args(Flatten)
KERNELS: tuple[Kernels, ...] = get_args(Kernels)
AFFINE: tuple[Affine, ...] = get_args(Affine)

# Networks on images whose constructors have defaults for all sizes.
OF_IMAGES = ("SimpleConvNet", "DeepConvNet", "LeNet5", "AlexNet")
