"""A bar where somebody may see it."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def bar(progress: bool, *args: Any, **options: Any) -> tqdm[Any]:
    """tqdm's bar, in a notebook its own, where progress asks for one: on a terminal or in a notebook, in no file."""
    from tqdm import TqdmWarning

    with warnings.catch_warnings():  # that a notebook without ipywidgets has bars of text is no news
        warnings.simplefilter("ignore", TqdmWarning)
        from tqdm.auto import tqdm
    in_notebook = type(sys.stdout).__module__.startswith("ipykernel.")
    hidden = True if not progress else False if in_notebook else None  # None: unless it is a terminal
    make: Any = tqdm  # whose stubs know no options in a dict
    shown: tqdm[Any] = make(*args, disable=hidden, **options)
    return shown
