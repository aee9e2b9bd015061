"""The NumPy reference: the CNN of Deep Learning from Scratch, chapter 7, under the book's own names."""

from numpy_ref.classic import AlexNet as AlexNet, LeNet5 as LeNet5
from numpy_ref.classic_layers import (
    LocalResponseNormalization as LocalResponseNormalization,
    Subsampling as Subsampling,
    Tanh as Tanh,
)
from numpy_ref.conv_net import ConvNet as ConvNet
from numpy_ref.deep_convnet import DeepConvNet as DeepConvNet
from numpy_ref.functions import (
    cross_entropy_error as cross_entropy_error,
    identity_function as identity_function,
    mean_squared_error as mean_squared_error,
    relu as relu,
    relu_grad as relu_grad,
    sigmoid as sigmoid,
    sigmoid_grad as sigmoid_grad,
    softmax as softmax,
    softmax_loss as softmax_loss,
    step_function as step_function,
    sum_squared_error as sum_squared_error,
)
from numpy_ref.gradient import (
    numerical_gradient as numerical_gradient,
    numerical_gradient_2d as numerical_gradient_2d,
)
from numpy_ref.layers import (
    AddLayer as AddLayer,
    Affine as Affine,
    AveragePooling as AveragePooling,
    BatchNormalization as BatchNormalization,
    Convolution as Convolution,
    Dropout as Dropout,
    Flatten as Flatten,
    MulLayer as MulLayer,
    Pooling as Pooling,
    Relu as Relu,
    Sigmoid as Sigmoid,
    SoftmaxWithLoss as SoftmaxWithLoss,
)
from numpy_ref.multi_layer_net import (
    Chapter4TwoLayerNet as Chapter4TwoLayerNet,
    MultiLayerNet as MultiLayerNet,
    ThreeLayerNet as ThreeLayerNet,
    TwoLayerNet as TwoLayerNet,
)
from numpy_ref.multi_layer_net_extend import MultiLayerNetExtend as MultiLayerNetExtend
from numpy_ref.network import Network as Network
from numpy_ref.optimizer import (
    SGD as SGD,
    AdaGrad as AdaGrad,
    Adam as Adam,
    Momentum as Momentum,
    Nesterov as Nesterov,
    RMSprop as RMSprop,
)
from numpy_ref.params import ParamsError as ParamsError, read_params as read_params, write_params as write_params
from numpy_ref.simple_convnet import SimpleConvNet as SimpleConvNet
from numpy_ref.trainer import Trainer as Trainer
from numpy_ref.util import (
    col2im as col2im,
    conv_output_size as conv_output_size,
    im2col as im2col,
    im2col_by_window as im2col_by_window,
    shuffle_dataset as shuffle_dataset,
    smooth_curve as smooth_curve,
)
