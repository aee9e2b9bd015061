"""Judges whether a port, any nn.Module, computes and trains as the NumPy reference does, within derived limits.

Read in this order: certificate (check_parity), runs (the runs of one port and how each is judged), subject (the port
and what is known of it), recording and calls (one recorded run), places, stages and links (which calls make which
layer), parameters (where the port holds the weights), judgement (one run with its links), forward, expected and
backward (each layer judged on the port's own input), side_effects (what a run must leave unchanged).
probes derives limits for several layers judged together, integers draws the run on exact numbers, causes tries common
mistakes; rows, report, page and picture present the result. gradients is the book's gradient check against central
differences.
"""

from torchport.layers.arithmetic import Setting as Setting
from torchport.parity import cases as cases, gradients as gradients
from torchport.parity.certificate import check_layer as check_layer, check_parity as check_parity
from torchport.parity.compare import Difference as Difference, compare as compare
from torchport.parity.gradients import GradientRow as GradientRow, gradient_check as gradient_check
from torchport.parity.losses import check_loss as check_loss
from torchport.parity.preparation import ALL as ALL
from torchport.parity.report import Report as Report
from torchport.parity.rows import Row as Row
