"""The database schema's history. Run by `python -m session migrate`."""
