"""The book's weights into a module of one's own, and back.

To be read in this order: uses (in which order a forward pass uses what), places (what lies where, in every reading),
proof (which of them hold), filling (load_params, params_from), writing.
"""

from torchport.loading.filling import Loaded as Loaded, load_params as load_params, params_from as params_from
from torchport.loading.uses import LoadError as LoadError
from torchport.loading.writing import write_into as write_into
