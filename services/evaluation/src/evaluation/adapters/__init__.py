"""The services and models that scoring needs."""
