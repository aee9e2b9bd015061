"""Every picture, as a matplotlib Figure: no display is needed, and no window opens."""

from torchport.figures.boxes import Box as Box, architecture as architecture
from torchport.figures.convolution import feature_maps as feature_maps, filters as filters, responses as responses
from torchport.figures.predictions import confusion_matrix as confusion_matrix, mistakes as mistakes
from torchport.figures.runs import Curve as Curve, curves as curves
from torchport.figures.style import save_figure as save_figure
from torchport.figures.windows import columns as columns
