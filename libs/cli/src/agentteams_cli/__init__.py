"""The `agentteams` command, and the stack that runs every service on one machine."""
