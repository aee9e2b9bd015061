"""Loads the book's weights into a user's own module, and reads them back.

Read the files in this order: uses (the order in which a forward pass uses parameters), places (every way to match them
with the reference's arrays, called readings), proof (which readings hold), filling (load_params, params_from), writing.
"""

from torchport.loading.filling import Loaded as Loaded, load_params as load_params, params_from as params_from
from torchport.loading.uses import LoadError as LoadError
from torchport.loading.writing import write_into as write_into
