"""What a session store does, without network, SQL or protobuf."""
