"""The parity engine: a port against the NumPy reference, within limits that are derived.

torchport.layers has the limits of each kind of layer; trace runs both, compare judges, report tells; independent has
checks of gradients that trust neither.
"""

from torchport.layers.arithmetic import Setting as Setting
from torchport.parity import cases as cases, differences as differences, independent as independent
from torchport.parity.compare import compare as compare
from torchport.parity.independent import (
    GradientRow as GradientRow,
    adjoint_gap as adjoint_gap,
    gradient_check as gradient_check,
    taylor_slope as taylor_slope,
)
from torchport.parity.loading import load_into as load_into
from torchport.parity.losses import check_loss as check_loss
from torchport.parity.optimizers import check_optimizer as check_optimizer
from torchport.parity.report import Difference as Difference, Report as Report, Row as Row
from torchport.parity.runs import ALL as ALL, check_layer as check_layer, check_parity as check_parity
