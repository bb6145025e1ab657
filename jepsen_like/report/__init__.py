"""What a run came to, for a person: one page and one picture."""

from jepsen_like.report.run_folder import ReportError, write_report, write_run

__all__ = ["ReportError", "write_report", "write_run"]
