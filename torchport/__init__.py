"""The book's SimpleConvNet in PyTorch: two convolutions, one state_dict, and the means to compare them with NumPy."""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

try:
    __version__ = version(__name__)
except PackageNotFoundError:  # run from its folder, not installed
    __version__ = "0+unknown"
