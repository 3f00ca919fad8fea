"""Pre-training, from the settings of a run to its report: `pretrain` is the door."""
