"""The store on SQLite and on Postgres."""
