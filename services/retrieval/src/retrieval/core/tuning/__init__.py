"""Tuning an index by measurement: docs/tuning.md."""
