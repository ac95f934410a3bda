"""What this package adds to runbook: the probe `csv:` and the step `archive:`."""
