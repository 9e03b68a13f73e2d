"""The same job done in other ways, on the same machine, photographs and protocol: `make bench-peers`.

The job: CamVid's 367 labelled train photographs at 480x360, from files on disk to masks of the 101 val photographs. One module
a family of peers, each run in a process of its own (`benchmarks.peers.run` starts them in turn on two cores).

**The clock** starts when the peer's process is started: imports, reading, extraction and training count. It stands still while
masks are predicted for the chart, for everyone alike, and what is shown at a time is the best score reached by then. Installing
a peer's packages counts for nobody, and neither does setting up this project's embedded Prefect server in a workspace, which
happens once in a workspace's life. The photographs are dropped from the page cache before each peer starts.

**The score** is the project's own: predicted masks at the label's resolution, void ignored, one confusion matrix over the val
split (`hypercolumns.metrics`). Peers hand over masks and never see a val label.

**Memory** is the largest resident set of any one process of the peer, training and prediction together.
**Prediction** is the median time from an image file on disk to its mask in memory, one image at a time, model loaded.
"""
