"""check_parity, which judges a whole port on several runs, and check_layer, which judges one module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from numpy_ref.checks import Array, check_batch
from numpy_ref.layers import Layer
from numpy_ref.network import Network
from torchport.bars import bar
from torchport.choices import IEEE, Mode
from torchport.layers import kind_of
from torchport.layers.arithmetic import Setting
from torchport.layers.loss import softmax_with_loss
from torchport.parity.losses import Loss
from torchport.parity.preparation import ALL, PREDICTION, TRAINING, check_finite, check_given, restored, unwrapped
from torchport.parity.report import Report
from torchport.parity.rows import Row
from torchport.parity.runs import Trial, judge
from torchport.parity.subject import Run, Subject

OWN_SEED = 7919  # unlikely to be a seed that a port sets itself


def check_parity(
    reference: Network,
    port: nn.Module,
    x: Array,
    t: Array,
    *,
    mode: Mode = IEEE,
    seed: int = 0,
    loss: Loss = softmax_with_loss,
    output: int | str | None = None,
    run: Callable[[Tensor], Any] | None = None,
    runs: Sequence[str] = ALL,
    name: str = "port",
    progress: bool = False,
) -> Report:
    """Judge whether port, an nn.Module that holds the weights of reference, computes and trains as reference does.

    The port runs unmodified; its modules need no particular names and no registration. Each layer of the reference is
    computed in float64 on the input that the port itself had there, so a row that fails blames that layer alone.
    Everything that judging changes in the port is restored bit for bit.

    Args:
        reference: The NumPy network to compare with; its weights are rounded to the port's dtype.
        port: The module to judge. Wrappers of torch.compile, DataParallel and DistributedDataParallel are removed and
            the module inside is judged; the wrapped module is then also judged as one piece.
        x: The user's batch (N, ...).
        t: The labels of x: (N,), or one-hot (N, C).
        mode: "ieee"; or, for float32 ports, "tf32" (CUDA) or "bfloat16" (autocast).
        seed: The seed of all random data.
        loss: A function of (output, labels). The port must end in what it takes: logits or log-probabilities.
        output: The part of the returned tuple (an index) or dict (a key) that is the output; None: found by value.
        run: Another callable that runs the same port, such as torch.compile(port), judged as one piece.
        runs: The names of the runs to make, a subset of ALL.
        name: The name of the port in the report.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        A Report, which is true if there is parity.

    Raises:
        ValueError: If a number is not finite, x or t does not fit, or the dtype is neither float64 nor float32.
        TypeError: If a layer of the reference is not registered (torchport.layers.register).

    Example:
        >>> import numpy as np, numpy_ref, torchport
        >>> from torchport.parity import check_parity
        >>> reference = numpy_ref.SimpleConvNet(input_dim=(1, 10, 10))
        >>> port = torchport.SimpleConvNet.from_params(reference.params)
        >>> bool(check_parity(reference, port, np.random.rand(4, 1, 10, 10), np.arange(4)))
        True
    """
    check_given(reference, port, loss, runs)
    inner = unwrapped(port)
    run = run or (port if inner is not port else None)
    setting = Setting.of(inner, mode)
    check_finite(check_batch("x", x), reference.params, inner)
    x = setting.round(np.asarray(x))
    with restored(inner) as frozen, setting.judging(), np.errstate(all="ignore"):
        torch.manual_seed(OWN_SEED + seed)  # for what the port draws; restored afterwards
        np.random.seed((OWN_SEED + seed) % 2**32)  # NumPy takes 32 bits
        subject = Subject.of(reference, inner, x, setting, frozen, loss, output)
        if inner is not port:
            subject.note(f"judged is what {type(port).__name__} wraps, and the whole in one piece")
        trial = Trial(reference, subject, x, t, seed)
        # The first run is always made: the others take from it which calls make which layers.
        parts = [part for part in ALL if part in (TRAINING, *runs)]
        parts_with_bar = bar(progress, parts, desc=name, unit="run", leave=False)
        rows = [row for part in parts_with_bar for row in getattr(trial, part)()]
        if run is not None:
            rows += trial.piece(run)
    return Report(tuple(rows), name, setting.name, setting.device, seed, tuple(trial.run_names), tuple(subject.notes))


def check_layer(name: str, layer: Layer, module: nn.Module, x: Array, dout: Array, setting: Setting) -> list[Row]:
    """Judge one module against one layer of the reference, on x and the upstream gradient dout. Raises ValueError."""
    x, dout = setting.round(x), setting.round(dout)
    with restored(module) as frozen, setting.judging():
        subject = Subject.of(Network({name: layer}), module, x, setting, frozen)
        rows = judge(subject, Run(TRAINING, x, cotangent=dout, wants_grad=True))
        if kind_of(layer).prediction is not None:
            rows += judge(subject, Run(PREDICTION, x, predicting=True))
    return rows
