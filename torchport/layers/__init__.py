"""Single layers: each kind as a torch module, with derived limits of how far a correct port of it may be off."""

from torchport.layers import selections as selections, smooth as smooth, sums as sums  # which register their kinds
from torchport.layers.arithmetic import Arithmetic as Arithmetic, Setting as Setting, rounded as rounded
from torchport.layers.columns import col2im as col2im, im2col as im2col
from torchport.layers.kinds import (
    EXACT as EXACT,
    EXP as EXP,
    KINDS as KINDS,
    NORMALISE as NORMALISE,
    SCALE as SCALE,
    SUM as SUM,
    LayerKind as LayerKind,
    Limits as Limits,
    Rule as Rule,
    Terms as Terms,
    gradients_of as gradients_of,
    kind_of as kind_of,
    other as other,
    parameters_of as parameters_of,
    predicted as predicted,
    register as register,
)
from torchport.layers.loss import (
    OUTPUTS as OUTPUTS,
    SoftmaxWithLoss as SoftmaxWithLoss,
    softmax_with_loss as softmax_with_loss,
)
from torchport.layers.modules import (
    BatchNormalization as BatchNormalization,
    Dropout as Dropout,
    Subsampling as Subsampling,
    UnfoldConv2d as UnfoldConv2d,
)
