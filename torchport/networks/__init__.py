"""Whole networks: which architecture weights belong to, their conversion to and from torch, and the torch ports."""

from torchport.layers.sums import CONVOLUTIONS as CONVOLUTIONS
from torchport.networks.architectures import NETWORKS as NETWORKS, Architecture as Architecture
from torchport.networks.hints import Hints as Hints
from torchport.networks.names import DTYPES as DTYPES, cast_params as cast_params
from torchport.networks.ports import from_reference as from_reference
from torchport.networks.recognition import recognise as recognise
from torchport.networks.simple_convnet import SimpleConvNet as SimpleConvNet
from torchport.networks.weights import (
    Source as Source,
    Weights as Weights,
    to_params as to_params,
    to_state_dict as to_state_dict,
)
