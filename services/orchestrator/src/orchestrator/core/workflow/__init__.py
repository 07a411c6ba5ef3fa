"""Mode Workflow: the declared steps of a team."""
