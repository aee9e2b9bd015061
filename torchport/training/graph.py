"""What CUDA wants: graphs, a function's kernels recorded once and launched together ever after; a context a thread."""

from __future__ import annotations

from collections.abc import Callable

import torch

from torchport.training.ranks import Ranks

GRAPH_STEPS = (20, 1)  # that a graph takes; the second is for what the first leaves of an epoch
WARM_UP = 2  # runs before recording, in which libraries choose algorithms and allocate what they keep


def uses_graphs(device: torch.device, ranks: Ranks) -> bool:
    """Whether a step is one CUDA graph: not across ranks, whose messages are awaited on the host."""
    return device.type == "cuda" and ranks.size == 1


def captured(function: Callable[[], None], restore: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What runs function as one CUDA graph. RuntimeError where it cannot be recorded.

    function takes and returns nothing: it reads and writes tensors that stay where they are, never waits for the
    device, and is the same every time. It runs a few times first; restore puts back in place what a run has changed.
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
    """Have autograd's thread launch a kernel, which gives it CUDA's context: cuBLAS complains where it has none."""
    zero = torch.zeros((), device=device, requires_grad=True)
    zero.mul(1).backward(zero.detach())
