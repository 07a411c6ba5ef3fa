"""Local models: their files (`localmodel.assets`) and an OpenAI-compatible server (`localmodel.server`)."""
