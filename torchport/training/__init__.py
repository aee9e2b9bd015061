"""Training as a library: train(Config()) is the book's run; scripts/train.py is its command."""

from typing import TYPE_CHECKING

from torchport.on_demand import on_demand

if TYPE_CHECKING:
    from torchport.training import history as history, ranks as ranks
    from torchport.training.config import Config as Config
    from torchport.training.folder import Record as Record
    from torchport.training.loop import resume as resume, train as train
    from torchport.training.result import (
        Diverged as Diverged,
        Progress as Progress,
        Result as Result,
        Stopped as Stopped,
    )
    from torchport.training.samples import Samples as Samples
else:  # which would let type checkers believe in any name
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "config": ("Config",),
            "folder": ("Record",),
            "history": (),
            "loop": ("resume", "train"),
            "ranks": (),
            "result": ("Diverged", "Progress", "Result", "Stopped"),
            "samples": ("Samples",),
        },
    )
