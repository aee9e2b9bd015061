"""Reports as check_parity makes them of a port of SimpleConvNet, right or wrong, without running one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from torchport.parity.compare import Difference
from torchport.parity.report import Report
from torchport.parity.rows import Row

RUNS = ("training", "prediction", "1 sample", "35 samples", "integers", "batch", "batch again", "extremes", "loss")
LAYERS = {
    "conv1": ("sum", "net.py:14", (32, 30, 24, 24)),
    "relu1": ("exact", "net.py:14", (32, 30, 24, 24)),
    "pool1": ("exact", "net.py:15", (32, 30, 12, 12)),
    "affine1": ("sum", "net.py:17", (32, 100)),
    "relu2": ("exact", "net.py:17", (32, 100)),
    "affine2": ("sum", "net.py:18, net.2 (Linear)", (32, 10)),
}
KNOWN = "the book adds 1e-7 inside the log, this loss does not"
CAUSE = "affine2.weight is the reference's, not transposed"
AT_TIES = "its gradient at exact zeros is 1/2, the reference's is 0"
NOTES = ("relu1 and pool1 were judged together (net.py:14)", "unused parameter fc9.weight")


def difference(ratio: float, limit: float = 1 / 3, shape: tuple[int, ...] = (2, 3)) -> Difference:
    """One whose last entry is off by ratio limits."""
    index = tuple(size - 1 for size in shape)
    return Difference(shape, index, 2 / 3, 2 / 3 + ratio * limit, ratio * limit, limit, ratio)


def passing(port: str = "unfold", dtype: str = "float32") -> Report:
    """Some 130 rows that are right, but for a known difference in the loss."""
    rng = np.random.default_rng(list(f"{port} {dtype}".encode()))

    def row(run: str, layer: str, quantity: str) -> Row:
        rule, where, shape = LAYERS.get(layer, ("exp" if layer == "loss" else "exact", "net.py:19", (32, 10)))
        rule = "exact" if quantity in ("weight", "bias") or run == "integers" else rule
        ratio, limit = (0.0, 0.0) if rule == "exact" else (10 ** rng.uniform(-3, -0.3), 10 ** rng.uniform(-7, -5))
        return Row(run, layer, quantity, rule, difference(ratio, limit, shape), where)

    rows = []
    for run in RUNS[:-1]:
        if run == "training":
            rows += [row(run, layer, name) for layer in LAYERS for name in ("weight", "bias") if "_" not in layer]
        rows += [row(run, layer, "output") for layer in ("input", *LAYERS, "output")]
        if run in ("training", "integers", "batch"):
            for layer, (rule, *_) in reversed(LAYERS.items()):
                parameters = ("grad_weight", "grad_bias") if rule == "sum" else ()
                rows += [row(run, layer, name) for name in ("grad_input", *parameters)]
        if run == "integers":
            rows += [row(run, layer, "grad_input at ties") for layer in ("relu2", "pool1", "relu1")]
    rows = [row for row in rows if row.quantity not in ("weight", "bias") or LAYERS[row.layer][0] == "sum"]
    value = Row("loss", "loss", "value", "exp", difference(1.3e5, 1e-12, ()), "", known=KNOWN)
    return Report((*rows, value, row("loss", "loss", "grad_input")), port, dtype, "cpu", 7, RUNS, NOTES)


def failing(port: str = "net.py:Net", dtype: str = "float32") -> Report:
    """The same where one weight is not transposed, a relu's gradient is another at 0, and a batch of one raises."""
    wrong = Difference((32, 10), (0, 3), 0.5678, 0.1234, 0.4444, 3.1e-7, 0.4444 / 3.1e-7)
    raised = Difference(note="it raised RuntimeError: shape '[32, -1]' is invalid for input of size 4320")

    def spoilt(row: Row) -> Row:
        if row.layer == "affine2" and row.quantity in ("output", "grad_input"):
            return replace(row, worst=wrong, cause=CAUSE)
        if row.layer == "affine2" and row.quantity == "weight":
            return replace(row, worst=Difference((10, 100), (0, 1), -0.8034, 0.3169, 1.1203, 0, np.inf), cause=CAUSE)
        if (row.layer, row.quantity) == ("relu1", "grad_input at ties"):
            return replace(row, worst=difference(np.nan), cause=AT_TIES)
        return replace(row, worst=raised) if (row.run, row.layer) == ("1 sample", "pool1") else row

    report = passing(port, dtype)
    rows = sorted(map(spoilt, report.rows), key=lambda row: row.quantity == "weight")
    return replace(report, rows=tuple(rows))
