"""Keeps a training run safe and visible: checkpoints, locks, signals, logs."""
