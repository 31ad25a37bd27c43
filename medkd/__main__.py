"""``python -m medkd`` is ``medkd``."""

from __future__ import annotations

import sys

from medkd.cli import main

sys.exit(main())
