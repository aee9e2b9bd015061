"""Files of weights: params.pkl, .npz and .npy, .pt, .safetensors and .onnx, whatever the arrays in them are called."""

from torchport.files.store import (
    CHECKPOINT as CHECKPOINT,
    CONFIG as CONFIG,
    CURVES as CURVES,
    METRICS as METRICS,
    MODEL as MODEL,
    PARAMS as PARAMS,
    file_of as file_of,
    listing as listing,
    load_network as load_network,
    naming as naming,
    read_weights as read_weights,
    stage_weights as stage_weights,
)
from torchport.networks import Hints as Hints
