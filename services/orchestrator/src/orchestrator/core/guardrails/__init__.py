"""Guardrails: what is looked for in the texts of a run, and what is done about it (docs/guardrails.md)."""
