"""Speed and memory of the three implementations, side by side."""

from torchport.benchmark.contenders import (
    RATIOS as RATIOS,
    REFERENCE as REFERENCE,
    Case as Case,
    contenders as contenders,
)
from torchport.benchmark.device import limit as limit, operations as operations, throughput as throughput
from torchport.benchmark.machine import describe_machine as describe_machine
from torchport.benchmark.memory import prediction as prediction, training_memory as training_memory
from torchport.benchmark.rounds import Spread as Spread, interleave as interleave, ratio as ratio, spread as spread
