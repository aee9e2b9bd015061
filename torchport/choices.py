"""The names of command-line choices, apart from what they stand for, so that --help need not import torch."""

from numpy_ref import classic, multi_layer_net_extend

CONVOLUTIONS = ("conv2d", "unfold")

DTYPES = ("float32", "float64")  # in which a network is trained and evaluated

IEEE, TF32, BFLOAT16 = "ieee", "tf32", "bfloat16"  # how products are computed

# Of any network: what recognise may be told.
ACTIVATIONS = tuple(dict.fromkeys((*multi_layer_net_extend.ACTIVATIONS, *classic.LENET_ACTIVATIONS)))

# How the arrays of a file may lie: the order of flattening, the axes of a convolution's weight and of an Affine's.
FLATTEN, KERNELS, AFFINE = ("chw", "hwc"), ("oihw", "hwio"), ("in-out", "out-in")

# Networks of images, which can be made with their own sizes.
OF_IMAGES = ("SimpleConvNet", "DeepConvNet", "LeNet5", "AlexNet")
