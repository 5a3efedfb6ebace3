"""``python -m sciinv``."""

import sys

from sciinv.cli import main

sys.exit(main())
