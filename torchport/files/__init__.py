"""Files of weights: params.pkl, .npz and .npy, .pt, .safetensors and .onnx, whatever the arrays in them are called."""

from torchport.files.store import (
    CHECKPOINT as CHECKPOINT,
    CONFIG as CONFIG,
    CURVES as CURVES,
    METRICS as METRICS,
    MODEL as MODEL,
    PARAMS as PARAMS,
    Hints as Hints,
    file_of as file_of,
    load_network as load_network,
    load_weights as load_weights,
    naming as naming,
    read_stored as read_stored,
    read_weights as read_weights,
    stage_weights as stage_weights,
)
