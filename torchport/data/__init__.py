"""Data sets by name: MNIST in any of its files, and digits drawn by this package; and how images are prepared."""

from torchport.data.mnist_files import DataError as DataError
from torchport.data.sets import (
    DATA_SETS as DATA_SETS,
    DATA_VARIABLE as DATA_VARIABLE,
    default_data_dir as default_data_dir,
    load as load,
    load_mnist as load_mnist,
    mnist as mnist,
)
