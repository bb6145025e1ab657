"""Exit codes of the ``dledger`` command, the same for every command of it."""

from __future__ import annotations

OK = 0
FAILURE = 1  # it could not be done, or a check failed
USAGE = 2  # wrong arguments; nothing was done
UNHEALTHY = 3  # it was found out, and it is not as it should be: no majority, a warning
INTERRUPTED = 130  # Ctrl-C
