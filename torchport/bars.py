"""Progress bars, shown only where somebody can see them."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def bar(progress: bool, *args: Any, **options: Any) -> tqdm[Any]:
    """Return tqdm's bar, visible if progress is set and the output is a terminal or a notebook, not a file."""
    from tqdm import TqdmWarning

    with warnings.catch_warnings():  # tqdm warns if a notebook lacks ipywidgets; its text bar does as well
        warnings.simplefilter("ignore", TqdmWarning)
        from tqdm.auto import tqdm
    in_notebook = type(sys.stdout).__module__.startswith("ipykernel.")
    disable = True if not progress else False if in_notebook else None  # None: unless it is a terminal
    make: Any = tqdm  # its stubs do not accept **options
    progress_bar: tqdm[Any] = make(*args, disable=disable, **options)
    return progress_bar
