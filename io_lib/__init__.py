"""What a run writes and reads: workdir, checkpoint, metrics, pictures. Each module is imported by its name."""
