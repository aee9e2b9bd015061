"""python -m torchport COMMAND, which is what torchport COMMAND does."""

import sys

from torchport.commands import main

sys.exit(main())
