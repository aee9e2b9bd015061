"""CUDA graphs: a function's kernels recorded once and then launched together; and a context for autograd's thread."""

from __future__ import annotations

from collections.abc import Callable

import torch

from torchport.training.ranks import Ranks

GRAPH_STEPS = (20, 1)  # of a graph; the second one is for the rest of an epoch
WARM_UP = 2  # runs before recording, in which libraries choose algorithms and allocate what they keep


def uses_graphs(device: torch.device, ranks: Ranks) -> bool:
    """Whether a step is one CUDA graph: not across ranks, whose messages are awaited on the host."""
    return device.type == "cuda" and ranks.size == 1


def captured(function: Callable[[], None], restore: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Record function as a CUDA graph; what launches it. RuntimeError where it cannot be recorded.

    function reads and writes tensors that stay where they are, never waits for the device, and does the same every
    time. It runs a few times first; restore undoes in place what a run has changed.
    """
    with torch.cuda.device(device):
        # Of this device: torch keeps one stream to record on for a process, made on the first one that records.
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function()
                restore()
        torch.cuda.current_stream().wait_stream(stream)
        # What other threads do meanwhile, as a DataLoader that pins memory, does not concern it.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            function()
        torch.cuda.synchronize()
    return graph.replay


def wake_autograd(device: torch.device) -> None:
    """Have autograd's thread launch a kernel, which gives it a CUDA context: cuBLAS warns where it has none."""
    zero = torch.zeros((), device=device, requires_grad=True)
    zero.mul(1).backward(zero.detach())
