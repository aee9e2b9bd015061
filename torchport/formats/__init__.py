"""Files of weights: params.pkl and .npz under the book's names, .pt and .safetensors under torch's."""

from torchport.formats.kinds import FORMATS as FORMATS
from torchport.formats.kinds import Format as Format
from torchport.formats.kinds import format_of as format_of
from torchport.formats.loading import CHECKPOINT as CHECKPOINT
from torchport.formats.loading import CONFIG as CONFIG
from torchport.formats.loading import MODEL as MODEL
from torchport.formats.loading import Stored as Stored
from torchport.formats.loading import file_of as file_of
from torchport.formats.loading import load_network as load_network
from torchport.formats.loading import load_weights as load_weights
from torchport.formats.loading import naming as naming
from torchport.formats.loading import read_stored as read_stored
