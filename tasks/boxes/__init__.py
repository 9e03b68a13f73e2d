"""Tasks inside boxes: instance masks, keypoints and parts, on the same feature stores as everything else."""
