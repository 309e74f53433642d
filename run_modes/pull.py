"""--mode=pull: a work directory of a run on the Hugging Face Hub."""

import shutil
import tempfile
from pathlib import Path

from config_lib.spec import ConfigError
from io_lib import hub


def pull(source: str, directory: str | Path) -> Path:
    """Downloads a run of the Hub, "owner/name" or "owner/name@revision", into a new work directory.

    It can then be sampled, evaluated, restored and trained as any other. ConfigError if the directory holds anything,
    and as `load` for the name and the repository.
    """
    hub.require_local(directory)
    directory, name = Path(directory), source if hub.is_remote(source) else hub.PREFIX + source
    hub.parse(name)
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ConfigError(f"{directory} is not empty: choose another --workdir")
    folder = hub.download(name)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as temporary:
        made = Path(temporary, "run")  # renamed at the end, so a kill leaves no half of a run
        for file in folder.rglob("*"):
            path = file.relative_to(folder)
            if file.is_file() and hub.is_of_run(path.as_posix()):  # the cache may hold other files of the repository
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, made / path)
        made.rename(directory)
    print(f"{directory}: {name}, revision {folder.name}")
    return directory
