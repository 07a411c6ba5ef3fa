"""What retrieval is, without gRPC, SQL or Milvus."""
