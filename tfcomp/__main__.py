"""``python -m tfcomp`` is the command ``tfcomp``."""

import sys

from tfcomp.cli.main import main

sys.exit(main())
