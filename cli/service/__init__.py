"""What `hypercolumns up` runs: a Prefect server, a worker, the deployments of prefect.yaml and the automations.

Nothing here imports Prefect: it is driven by its processes and its HTTP interface, so that the process which looks after the
others stays small and starts at once.
"""
