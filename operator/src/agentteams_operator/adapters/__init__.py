"""The world: the API server, endpoints, services."""
