"""`python -m runbook`."""

from runbook.cli.main import entry

if __name__ == "__main__":
    entry()
