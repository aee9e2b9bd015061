"""Draws every picture as a matplotlib Figure: it needs no display, opens no window, and notebooks show it."""

from torchport.figures.boxes import Box as Box, architecture as architecture
from torchport.figures.convolution import (
    Stage as Stage,
    feature_maps as feature_maps,
    path as path,
    responses as responses,
)
from torchport.figures.predictions import confusion_matrix as confusion_matrix, mistakes as mistakes
from torchport.figures.runs import Curve as Curve, curves as curves
from torchport.figures.shifts import shifts as shifts
from torchport.figures.sources import filters as filters
from torchport.figures.style import save_figure as save_figure
from torchport.figures.windows import columns as columns
