from . import (
    config as config,
    folder as folder,
    loop as loop,
    ranks as ranks,
    result as result,
    samples as samples,
)
from .config import Config as Config
from .folder import Record as Record
from .loop import resume as resume, train as train
from .result import Diverged as Diverged, Progress as Progress, Result as Result, Stopped as Stopped
from .samples import Samples as Samples
