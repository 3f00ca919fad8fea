"""Fine-tuning on labelled rows, and what surrounds it: `finetune` is the door."""
