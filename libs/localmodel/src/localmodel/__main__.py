"""`python -m localmodel serve|fetch`."""

import sys

from localmodel.cli import main

sys.exit(main(sys.argv[1:]))
