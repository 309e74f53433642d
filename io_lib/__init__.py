"""What a run writes and reads: work directory, checkpoints, metrics, pictures, shards of samples; signals, processes.

Import each module by its name. For a new file of a run, add a module. Write the file with `workdir.atomic`: a kill
then leaves the old content or the new.
"""
