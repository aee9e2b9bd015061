"""The book's SimpleConvNet in PyTorch: two convolutions, one state_dict, and the means to compare them with NumPy."""

from torchport.data import load_mnist as load_mnist
from torchport.formats import load_network as load_network
from torchport.im2col import col2im as col2im
from torchport.im2col import im2col as im2col
from torchport.layers import BatchNormalization as BatchNormalization
from torchport.layers import Dropout as Dropout
from torchport.layers import Subsampling as Subsampling
from torchport.layers import UnfoldConv2d as UnfoldConv2d
from torchport.loss import SoftmaxWithLoss as SoftmaxWithLoss
from torchport.loss import softmax_with_loss as softmax_with_loss
from torchport.networks import SimpleConvNet as SimpleConvNet
from torchport.optimizers import BookAdam as BookAdam
from torchport.optimizers import make_optimizer as make_optimizer
from torchport.weights import to_params as to_params
from torchport.weights import to_state_dict as to_state_dict
