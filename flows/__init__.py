"""Prefect flows: straight lines that read like the job.

Tasks pass keys and paths; the store, not Prefect, decides what is a hit. Results are not persisted. A flow that fails leaves
its exception in Prefect's storage all the same, so that its serialiser is set: JSON, never pickle.
"""

import logging

# What stages say reaches Prefect's pages where its settings name this logger; Prefect gives it handlers, and no level.
logging.getLogger("hypercolumns").setLevel(logging.INFO)
