"""`python -m ainp2p` is the same as the `ainp2p` command."""

from __future__ import annotations

import sys

from ainp2p.cli import main

if __name__ == "__main__":
    sys.exit(main())
