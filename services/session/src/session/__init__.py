"""Keeps conversations: sessions, messages, runs and their event logs."""
