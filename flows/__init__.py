"""Prefect flows: straight lines that read like the job.

Tasks pass keys and paths; the store, not Prefect, decides what is a hit.
"""
