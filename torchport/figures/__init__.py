"""Every picture, as a matplotlib Figure: no display is needed, and no window opens."""

from torchport.figures.boxes import Box as Box
from torchport.figures.boxes import architecture as architecture
from torchport.figures.convolution import feature_maps as feature_maps
from torchport.figures.convolution import filters as filters
from torchport.figures.convolution import responses as responses
from torchport.figures.predictions import confusion_matrix as confusion_matrix
from torchport.figures.predictions import mistakes as mistakes
from torchport.figures.runs import Curve as Curve
from torchport.figures.runs import curves as curves
from torchport.figures.style import save_figure as save_figure
from torchport.figures.windows import columns as columns
