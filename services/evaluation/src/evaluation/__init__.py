"""Scores runs after the fact."""
