"""The HTTP door: a team is a model of the OpenAI API."""
