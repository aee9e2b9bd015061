"""The parity engine: a port against the NumPy reference, within limits that are derived.

setting says in which arithmetic, bounds how far apart two correct implementations may be, trace runs both, compare
judges, report tells; independent has checks of gradients that trust neither.
"""

from typing import TYPE_CHECKING

from torchport.on_demand import on_demand
from torchport.parity.compare import (
    check_layer as check_layer,
    check_loss as check_loss,
    check_parity as check_parity,
    compare as compare,
)
from torchport.parity.independent import (
    GradientRow as GradientRow,
    adjoint_gap as adjoint_gap,
    gradient_check as gradient_check,
    taylor_slope as taylor_slope,
)
from torchport.parity.optimizers import check_optimizer as check_optimizer
from torchport.parity.report import Difference as Difference, Report as Report, Row as Row
from torchport.parity.setting import Setting as Setting

if TYPE_CHECKING:
    from torchport.parity import (
        calibration as calibration,
        cases as cases,
        catalogue as catalogue,
        differences as differences,
        independent as independent,
        page as page,
        planted as planted,
    )
else:  # which would let type checkers believe in any name
    __getattr__, __dir__ = on_demand(
        __name__, dict.fromkeys(("calibration", "cases", "catalogue", "differences", "page", "planted"), ())
    )
