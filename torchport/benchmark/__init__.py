"""Speed and memory of the three implementations, side by side."""

from torchport.benchmark.contenders import RATIOS as RATIOS
from torchport.benchmark.contenders import REFERENCE as REFERENCE
from torchport.benchmark.contenders import Case as Case
from torchport.benchmark.contenders import contenders as contenders
from torchport.benchmark.device import limit as limit
from torchport.benchmark.device import operations as operations
from torchport.benchmark.device import throughput as throughput
from torchport.benchmark.machine import describe_machine as describe_machine
from torchport.benchmark.memory import prediction as prediction
from torchport.benchmark.memory import training_memory as training_memory
from torchport.benchmark.rounds import Spread as Spread
from torchport.benchmark.rounds import interleave as interleave
from torchport.benchmark.rounds import ratio as ratio
from torchport.benchmark.rounds import spread as spread
