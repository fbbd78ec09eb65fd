"""From checkpoints of other libraries to safetensors with a sidecar, without running anything that they hold."""
