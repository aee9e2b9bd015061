"""The one place that knows CUDA graphs: a function's kernels recorded once, and launched together ever after."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_UP = 3  # runs before recording, in which libraries choose algorithms and allocate what they keep


def captured(function: Callable[[], None], restore: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What runs function as one CUDA graph.

    function takes and returns nothing: it reads and writes tensors that stay where they are, never waits for the
    device, and is the same every time. It runs a few times first; restore puts back in place what a run has changed.
    """
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function()
                restore()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        torch.cuda.synchronize()
    return graph.replay
