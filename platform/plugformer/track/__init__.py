"""Where metrics go: the only place that may know wandb."""
