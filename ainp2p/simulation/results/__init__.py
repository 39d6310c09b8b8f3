"""What a run leaves behind: tables, numbers, sweeps, reports."""
