"""The book's SimpleConvNet in PyTorch: two convolutions, one state_dict, and the means to compare them with NumPy."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
