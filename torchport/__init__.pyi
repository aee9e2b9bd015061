from . import (
    data as data,
    evaluation as evaluation,
    figures as figures,
    files as files,
    layers as layers,
    loading as loading,
    moves as moves,
    networks as networks,
    optimizers as optimizers,
    parity as parity,
    porting as porting,
    subjects as subjects,
    testing as testing,
    training as training,
)
from .data import load_mnist as load_mnist
from .files import load_network as load_network
from .layers import (
    BatchNormalization as BatchNormalization,
    Dropout as Dropout,
    SoftmaxWithLoss as SoftmaxWithLoss,
    Subsampling as Subsampling,
    UnfoldConv2d as UnfoldConv2d,
    col2im as col2im,
    im2col as im2col,
    softmax_with_loss as softmax_with_loss,
)
from .loading import load_params as load_params, params_from as params_from
from .networks import (
    SimpleConvNet as SimpleConvNet,
    from_reference as from_reference,
    recognise as recognise,
    to_params as to_params,
    to_state_dict as to_state_dict,
)
from .optimizers import BookAdam as BookAdam, make_optimizer as make_optimizer
from .parity import Setting as Setting, check_parity as check_parity
from .testing import assert_parity as assert_parity

__version__: str
