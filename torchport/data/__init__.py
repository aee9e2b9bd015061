"""The data sets by name: MNIST wherever it lies, and digits drawn here; and how networks are given images."""

from torchport.data.mnist_files import DataError as DataError
from torchport.data.sets import (
    DATA_SETS as DATA_SETS,
    DATA_VARIABLE as DATA_VARIABLE,
    default_data_dir as default_data_dir,
    load as load,
    load_mnist as load_mnist,
    mnist as mnist,
)
