"""Alembic's entry; the connection and its transaction come from adapters/schema.py."""

from alembic import context

from session.adapters.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters hardly anything in place: alembic copies the table then
)
with context.begin_transaction():
    context.run_migrations()
