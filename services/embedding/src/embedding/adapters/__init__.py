"""Where vectors and model settings come from."""
