"""An OpenAI-compatible chat server for models that run on this machine."""
