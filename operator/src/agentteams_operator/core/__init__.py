"""What is decided and remembered; knows nothing of Kubernetes clients, kopf or gRPC."""
