"""The verdict: a port judged on several runs, each for what the others cannot show."""

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

OWN_SEED = 7919  # another than one that a port might set


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
    """Whether port, any nn.Module that holds reference's weights, computes and trains as reference does.

    The port runs as it is; nothing needs a name or a registration. Each layer of the reference is computed in float64
    on the port's own input of it, so what a row says is that layer's own fault. All that judging changes in the port
    is put back bit for bit.

    Args:
        reference: The oracle; its weights are rounded to the port's dtype.
        port: The module; torch.compile's, DataParallel's and DistributedDataParallel's wrappers are taken off, and
            what they wrap is judged; a compiled one is also judged as one piece.
        x: The user's batch (N, ...).
        t: Its labels (N,), or one-hot (N, C).
        mode: "ieee"; "tf32" (CUDA) or "bfloat16" (autocast), for float32 ports.
        seed: Of what is drawn.
        loss: Of (output, labels); what it takes, logits or log-probabilities, is what the port must end in.
        output: Which part of a tuple (a number) or a dict (a key) is the port's output; otherwise it is found.
        run: Another callable of the same port, torch.compile(port) say, judged as one piece.
        runs: Which of ALL to make.
        name: The port's, in the report.
        progress: Whether to show a bar on a terminal.

    Returns:
        A Report, which is true where there is parity.

    Raises:
        ValueError: For numbers that are not finite, an unfit x or t, or a dtype other than float64 and float32.
        TypeError: For layers of the reference that are not registered (torchport.layers.register).

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
        torch.manual_seed(OWN_SEED + seed)  # of what the port draws; put back afterwards
        np.random.seed((OWN_SEED + seed) % 2**32)  # all that NumPy takes
        subject = Subject.of(reference, inner, x, setting, frozen, loss, output)
        if inner is not port:
            subject.note(f"judged is what {type(port).__name__} wraps, and the whole in one piece")
        trial = Trial(reference, subject, x, t, seed)
        # The first run is always made: it tells which calls are which layers.
        parts = [part for part in ALL if part in (TRAINING, *runs)]
        shown = bar(progress, parts, desc=name, unit="run", leave=False)
        rows = [row for part in shown for row in getattr(trial, part)()]
        if run is not None:
            rows += trial.piece(run)
    return Report(tuple(rows), name, setting.name, setting.device, seed, tuple(trial.made), tuple(subject.notes))


def check_layer(name: str, layer: Layer, module: nn.Module, x: Array, dout: Array, setting: Setting) -> list[Row]:
    """Rows for one module against one layer of the reference, on x and the upstream gradient dout. ValueError."""
    x, dout = setting.round(x), setting.round(dout)
    with restored(module) as frozen, setting.judging():
        subject = Subject.of(Network({name: layer}), module, x, setting, frozen)
        rows = judge(subject, Run(TRAINING, x, cotangent=dout, wants_grad=True))
        if kind_of(layer).prediction is not None:
            rows += judge(subject, Run(PREDICTION, x, predicting=True))
    return rows
