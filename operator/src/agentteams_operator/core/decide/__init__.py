"""Pure: what was observed -> what is wanted."""
