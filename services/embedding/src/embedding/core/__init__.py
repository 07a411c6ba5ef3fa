"""What the service does; knows nothing of gRPC, HTTP or the environment."""
