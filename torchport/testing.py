"""assert_parity, for a user's own tests of a port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from numpy_ref.checks import Array
    from numpy_ref.network import Network
    from torchport.parity import Report


def assert_parity(reference: Network, port: nn.Module, x: Array, t: Array, **options: Any) -> Report:
    """Assert that port computes what reference computes, forward and backward.

    Args:
        reference: The NumPy network, which is right by definition.
        port: Any module; it is left unchanged.
        x: A batch (N, ...).
        t: Its labels, (N,) or one-hot (N, classes).
        options: Those of torchport.parity.check_parity, such as loss, runs, mode and seed.

    Returns:
        The report, which says how much was compared.

    Raises:
        AssertionError: Says in a few lines what differs and where, both values, the error, its limit and the cause.

    >>> import numpy as np, numpy_ref, torchport
    >>> reference, x = numpy_ref.TwoLayerNet(8, 6, 4), np.random.RandomState(0).randn(5, 8)
    >>> port = torchport.from_reference(reference)
    >>> assert_parity(reference, port, x, t=np.arange(5) % 4).ok
    True
    """
    from torchport.parity import check_parity  # here, since it imports torch, which takes a second

    __tracebackhide__ = True  # pytest then shows the caller's line
    report = check_parity(reference, port, x, t, **options)
    report.raise_if_failed()
    return report
