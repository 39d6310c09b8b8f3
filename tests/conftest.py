"""Tests send Ctrl-C; a shell that runs them in the background has them, and all they start, ignore it."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
