"""One target under a coverage-guided fuzzer (atheris, libFuzzer): a process of its own.

libFuzzer never returns: it ends the process, after the time or at the first finding.
"""

from __future__ import annotations

import logging
import sys

import atheris

with atheris.instrument_imports(include=["dledger", "broker"]):
    from jepsen_like.fuzz.targets import TARGETS


def main() -> None:
    """``python -m jepsen_like.fuzz.guided TARGET [libFuzzer's own options and folders]``."""
    target = TARGETS[sys.argv[1]]
    logging.disable(logging.CRITICAL)  # what a start warns of is no finding, and there are millions
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
