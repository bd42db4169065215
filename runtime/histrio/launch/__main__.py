"""`python -m histrio.launch` is `rt-launch`."""

from __future__ import annotations

import sys

from histrio.launch.main import main

sys.exit(main())
