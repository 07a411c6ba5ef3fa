"""What the gateway decides; knows nothing of gRPC and of HTTP servers."""
