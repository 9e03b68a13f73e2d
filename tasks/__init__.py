"""One module per verb: glue between the torch library and the storage layer, as plain functions of small pydantic models.

Tasks pass keys and paths, never arrays. Every task is idempotent: what it makes is named by the digest of everything that
decides it, so that a second call, or a second machine, finds it and returns at once. Nothing here knows Prefect: `flows` wraps
these functions.
"""
