"""The tutorial runs from start to end, and its stored outputs are what it shows."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebook is read by nbformat: pip install -e '.[test]'")
nbclient = pytest.importorskip("nbclient", reason="the notebook is run by nbclient: pip install -e '.[test]'")

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "tutorial.ipynb"
SMALL = "TRAIN, TEST, EPOCHS = 200, 100, 1"  # in place of the cell of parameters
NUMBER = re.compile(r"-?\d[\d,.]*(e[-+]\d+)?|of its limit \(.*?\)")


@pytest.fixture(scope="module")
def stored() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def ran(stored: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook after a run with few images, in its own process."""
    notebook = nbformat.from_dict(stored)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    assert parameters.source.partition(" = ")[0] == SMALL.partition(" = ")[0]
    parameters.source = SMALL
    where = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where)
    client.execute(env={**os.environ, "OMP_NUM_THREADS": "1"})
    return notebook


def shown(notebook: Any) -> list[list[tuple[str, str]]]:
    """Kind and text of each output, without numbers, for each code cell; progress bars without their text."""
    return [
        [
            (kind, NUMBER.sub("#", text) if kind != "stderr" else "")
            for kind, text in sorted(pair for output in cell.outputs for pair in texts(output).items())
        ]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def texts(output: Any) -> dict[str, str]:
    """The texts of an output by stream name or MIME type; "" for pictures and HTML."""
    if output.output_type == "stream":
        return {output.name: output.text.strip()}
    return {kind: data if kind == "text/plain" else "" for kind, data in output.data.items()}


def merged(cells: list[list[tuple[str, str]]]) -> list[list[tuple[str, str]]]:
    """cells without repeated outputs, which progress bars write."""
    return [list(dict.fromkeys(cell)) for cell in cells]


def test_it_runs_and_shows_what_is_stored(ran: Any, stored: Any) -> None:
    assert merged(shown(ran)) == merged(shown(stored))


def test_a_notebook_has_bars(ran: Any) -> None:
    outputs = [texts(out) for cell in ran.cells for out in cell.get("outputs", ())]
    bars = "".join(out.get("stderr", "") for out in outputs)
    assert all(f"{what}: 100%" in bars for what in ("drawing", "test images"))
    assert "100%" in bars.partition("step/s")[0]


def test_it_can_be_read_without_running(stored: Any) -> None:
    outputs = [out for cell in stored.cells if cell.cell_type == "code" for out in cell.outputs]
    assert sum("image/png" in out.get("data", ()) for out in outputs) >= 5
    assert sum("NO PARITY" in out.get("data", {}).get("text/html", "") for out in outputs) == 1
    assert NOTEBOOK.stat().st_size < 10**6
