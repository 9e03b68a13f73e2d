"""The `hypercolumns` command: thin, quick to start, and calling flows only where a flow runs."""
