"""How commands print: plain text for people, one JSON object per line for programs.

What peers say ends up here, so control characters never reach the terminal.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

# C0 and C1 controls but for tab and newline, and the bidirectional overrides: what a peer sends could
# rewrite the screen, or show one text and copy another.
_CONTROLS = dict.fromkeys(
    (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd"
)
del _CONTROLS[ord("\t")], _CONTROLS[ord("\n")]


def emit(args: argparse.Namespace, plain: str, data: Mapping[str, Any]) -> None:
    """Print one result: `plain` (may have several lines), or `data` as one JSON line under `--json`.

    Call it again for each further result, so that both forms can be read while they arrive.
    """
    if args.json:
        print(json.dumps(data), flush=True)
    else:
        print(printable(plain), flush=True)


def note(args: argparse.Namespace, text: str) -> None:
    """Tell a person what is going on; on standard error, and not under `--json`."""
    if not args.json:
        print(printable(text), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """`text` with its control characters made visible, newline and tab aside."""
    return text.translate(_CONTROLS)
