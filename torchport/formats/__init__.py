"""Files of weights: params.pkl and .npz under the book's names, .pt and .safetensors under torch's."""

from torchport.formats.kinds import FORMATS as FORMATS, Format as Format, format_of as format_of
from torchport.formats.loading import (
    CHECKPOINT as CHECKPOINT,
    CONFIG as CONFIG,
    MODEL as MODEL,
    Stored as Stored,
    file_of as file_of,
    load_network as load_network,
    load_weights as load_weights,
    naming as naming,
    read_stored as read_stored,
)
