"""kopf: watches into the cache."""
