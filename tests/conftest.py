"""Tests share their cores with each other's processes: waiting OpenMP threads sleep, here and in every child."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
