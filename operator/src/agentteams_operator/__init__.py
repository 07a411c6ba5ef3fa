"""Reconciles AgentTeams, KnowledgeBases and ModelConfigs."""
