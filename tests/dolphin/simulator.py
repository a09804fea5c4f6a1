#!/usr/bin/env python3
"""Starts the simulator of Dolphin Anty: `python3 tests/dolphin/simulator.py --help`. See README.md beside it."""

import sys

sys.dont_write_bytecode = True

from dolphin_sim.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
