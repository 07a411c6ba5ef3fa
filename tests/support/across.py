"""A team of namespace `owner` that teams of every other namespace may ask."""

OWNERS_DESK = """
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {name: chat, namespace: owner}
spec: {type: Chat, provider: BuiltIn}
---
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: desk, namespace: owner}
spec:
  modelConfigRef: {name: chat}
  members: [{name: clerk, instructions: You are the clerk of another house.}]
  allowedNamespaces: {from: All}
---
"""
