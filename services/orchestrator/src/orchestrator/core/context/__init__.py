"""What a model is shown: a prompt that fits, and what was left out of it (docs/context.md)."""
