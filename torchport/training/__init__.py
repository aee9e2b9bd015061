"""Training as a library: train(Config()) is the book's run; scripts/train.py is its command."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
