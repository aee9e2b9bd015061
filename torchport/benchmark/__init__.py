"""Speed and memory of the three implementations, side by side."""

from torchport.benchmark.ageing import updates as updates
from torchport.benchmark.contenders import (
    FLOOR as FLOOR,
    RATIOS as RATIOS,
    REFERENCE as REFERENCE,
    Case as Case,
    contenders as contenders,
)
from torchport.benchmark.device import kernels as kernels, limit as limit, throughput as throughput
from torchport.benchmark.floors import operations as operations
from torchport.benchmark.growth import GROWTH as GROWTH, grow as grow
from torchport.benchmark.machine import describe_machine as describe_machine
from torchport.benchmark.memory import prediction as prediction, training_memory as training_memory
from torchport.benchmark.rounds import Spread as Spread, interleave as interleave, ratio as ratio, spread as spread
from torchport.benchmark.startup import start_times as start_times
