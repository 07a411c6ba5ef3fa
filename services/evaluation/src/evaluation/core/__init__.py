"""What is scored and how; knows nothing of the network."""
