"""The bootstrap that every AgentTeams service shares. Imports no service."""
