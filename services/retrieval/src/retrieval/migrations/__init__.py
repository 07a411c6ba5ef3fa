"""The catalogue's schema over time. Additive only: the version before must still run with it."""
