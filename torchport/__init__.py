"""The book's SimpleConvNet in PyTorch: two convolutions, one state_dict, and the means to compare them with NumPy."""

from typing import TYPE_CHECKING

from torchport.on_demand import on_demand

if TYPE_CHECKING:
    from torchport import (
        architectures as architectures,
        benchmark as benchmark,
        evaluation as evaluation,
        formats as formats,
        parity as parity,
        porting as porting,
        subjects as subjects,
        training as training,
        weights as weights,
    )
    from torchport.columns import col2im as col2im, im2col as im2col
    from torchport.data import load_mnist as load_mnist
    from torchport.formats import load_network as load_network
    from torchport.layers import (
        BatchNormalization as BatchNormalization,
        Dropout as Dropout,
        Subsampling as Subsampling,
        UnfoldConv2d as UnfoldConv2d,
    )
    from torchport.loss import SoftmaxWithLoss as SoftmaxWithLoss, softmax_with_loss as softmax_with_loss
    from torchport.networks import SimpleConvNet as SimpleConvNet
    from torchport.optimizers import BookAdam as BookAdam, make_optimizer as make_optimizer
    from torchport.weights import to_params as to_params, to_state_dict as to_state_dict
else:  # which would let type checkers believe in any name
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "architectures": (),
            "benchmark": (),
            "columns": ("col2im", "im2col"),
            "data": ("load_mnist",),
            "evaluation": (),
            "formats": ("load_network",),
            "layers": ("BatchNormalization", "Dropout", "Subsampling", "UnfoldConv2d"),
            "loss": ("SoftmaxWithLoss", "softmax_with_loss"),
            "networks": ("SimpleConvNet",),
            "optimizers": ("BookAdam", "make_optimizer"),
            "parity": (),
            "porting": (),
            "subjects": (),
            "training": (),
            "weights": ("to_params", "to_state_dict"),
        },
    )
