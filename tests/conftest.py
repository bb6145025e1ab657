"""What holds for all tests."""

import signal

# The background job of a shell ignores Ctrl-C, and what a test starts would ignore it as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
