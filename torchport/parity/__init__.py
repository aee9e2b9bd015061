"""The parity engine: a port against the NumPy reference, within limits that are derived.

setting says in which arithmetic, bounds how far apart two correct implementations may be, trace runs both, compare
judges, report tells; independent has checks of gradients that trust neither.
"""

from torchport.parity import cases as cases
from torchport.parity import differences as differences
from torchport.parity import independent as independent
from torchport.parity import page as page
from torchport.parity.compare import check_layer as check_layer
from torchport.parity.compare import check_loss as check_loss
from torchport.parity.compare import check_parity as check_parity
from torchport.parity.compare import compare as compare
from torchport.parity.independent import GradientRow as GradientRow
from torchport.parity.independent import adjoint_gap as adjoint_gap
from torchport.parity.independent import gradient_check as gradient_check
from torchport.parity.independent import taylor_slope as taylor_slope
from torchport.parity.optimizers import check_optimizer as check_optimizer
from torchport.parity.report import Difference as Difference
from torchport.parity.report import Report as Report
from torchport.parity.report import Row as Row
from torchport.parity.setting import Setting as Setting
