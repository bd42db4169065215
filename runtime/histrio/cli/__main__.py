"""`python -m histrio.cli` is `rt-launch`."""

from __future__ import annotations

import sys

from histrio.cli.main import main

if __name__ == "__main__":  # worker processes load the main module under another name
    sys.exit(main())
