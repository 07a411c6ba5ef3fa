"""Alembic's entry: runs on the connection that `retrieval.adapters.migrate` hands in."""

from alembic import context

from retrieval.adapters.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, version_table="retrieval_alembic_version")
with context.begin_transaction():
    context.run_migrations()
