"""The verdict: whether a port, any nn.Module, computes and trains as the NumPy reference does, within derived limits.

To be read in this order: certificate (check_parity), runs (of one port, and how each is judged), subject (what is
judged), recording and calls (a port's run), places, stages and links (which calls make which layer), parameters (where
the weights are), judgement (one run), forward, expected and backward (each layer on the port's own input), left (what a
run leaves behind).
probes has the limits of what is seen in one piece, integers the run on exact numbers, causes what people do wrong;
rows, report, page and picture tell. gradients is the book's gradient check, which trusts no implementation.
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
