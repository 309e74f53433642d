"""Other projects' checkpoints as our parameters. A new project is a module like `score_sde`, with a table of names."""
