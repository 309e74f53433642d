"""Runs on the Hugging Face Hub: their names, download and upload. The only module that uses huggingface_hub.

    hf:owner/name             the newest revision
    hf:owner/name@revision    that of a branch, a tag or a commit

What is downloaded is data, of which nothing is run: config.json, checkpoints, and the files next to them that FILES
names. Other files of a repository are not fetched.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

from config_lib.names import ConfigError
from io_lib.workdir import CONFIG, some

PREFIX = "hf:"
FILES = (
    *(CONFIG, "checkpoints/[0-9]*", "metrics.jsonl", "data.json", "config_history.jsonl", "base_config.json"),
    *("README.md", "samples.png"),
)
"""Patterns of the files of a run on the Hub; * also matches slashes."""
WEIGHTS = (".safetensors", ".bin", ".pkl", ".pt", ".pth")
PUBLISHED = ("*.json", *(f"*{suffix}" for suffix in WEIGHTS))
"""Patterns of the files of published models; others, such as their code, are not fetched."""
_NAME = re.compile(r"hf:(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)
_SECTIONS = ("sde", "network", "shape")  # of every config of ours


def is_remote(directory: Any) -> bool:
    """Whether it names a run on the Hub, not a work directory."""
    return str(directory).startswith(PREFIX)


def parse(name: str | Path) -> tuple[str, str | None]:
    """`owner/name` and the revision, or None. ConfigError for a malformed name."""
    found = _NAME.fullmatch(str(name))
    if found is None:
        raise ConfigError(f"{name}: expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    return found[1], found[2]


def require_local(directory: Any) -> None:
    """ConfigError for a run on the Hub, where only a work directory can be used."""
    if is_remote(directory):
        raise ConfigError(
            f"{directory} is on the Hub, where it can only be read, by run_lib.load and --mode=inspect: "
            f"--mode=pull --from={directory} --workdir=DIR makes a work directory of it"
        )


def local(directory: str | Path) -> str | Path:
    """The directory; for a run on the Hub its download, in the cache of huggingface_hub, to be read only."""
    return download(directory) if is_remote(directory) else directory


def download(name: str | Path) -> Path:
    """The files of a run on the Hub, in the cache of huggingface_hub; without a network, those cached before.

    ConfigError if the name is malformed, there is no such repository or revision, or it holds no run of ours.
    """
    repository, revision = parse(name)
    hub = _package()
    with _errors(hub, str(name)):
        try:
            config = hub.hf_hub_download(repository, CONFIG, revision=revision)
        except hub.errors.LocalEntryNotFoundError:
            raise
        except hub.errors.EntryNotFoundError as error:
            raise ConfigError(f"{_not_a_run(name)} there is no {CONFIG}") from error
        require_config(name, Path(config))  # before a foreign repository is fetched, which may be large
        folder = Path(hub.snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    if not any(path.name.isdigit() for path in (folder / "checkpoints").glob("*")):
        held = sorted(path.name for path in folder.iterdir())
        raise ConfigError(f"{_not_a_run(name)} there is no checkpoint next to {some(held)}")
    return folder


def download_published(name: str | Path) -> Path:
    """A published model of another project, as the folder or file to import; without a network, that cached before.

    A folder with a config.json, or with unet/config.json, is one of diffusers; else there must be one file of weights.
    ConfigError if the name is malformed, there is no such repository, or what to take is not clear.
    """
    repository, revision = parse(name)
    hub = _package()
    with _errors(hub, str(name), "the model"):
        folder = Path(hub.snapshot_download(repository, revision=revision, allow_patterns=list(PUBLISHED)))
    if any((folder / part / CONFIG).is_file() for part in ("", "unet")):
        return folder
    files = sorted(path for path in folder.rglob("*") if path.suffix in WEIGHTS)
    if len(files) != 1:
        held = some([path.relative_to(folder).as_posix() for path in files]) or "none"
        raise ConfigError(
            f"{name}: expected {CONFIG} of diffusers or one file of weights, got {held}; download one and give its path"
        )
    return files[0]


def require_config(name: str | Path, path: Path) -> None:
    """ConfigError unless the file is the config of a run of ours."""
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{_not_a_run(name)} its {CONFIG} is not JSON") from error
    if not isinstance(config, dict) or not set(_SECTIONS) <= set(config):
        raise ConfigError(f"{_not_a_run(name)} its {CONFIG} lacks some of {', '.join(_SECTIONS)}")


def is_of_run(path: str) -> bool:
    """Whether a path in a repository is one of a run: what `download` fetches and `upload` replaces."""
    return any(fnmatch(path, pattern) for pattern in FILES)


def upload(repository: str, files: Mapping[str, Path | bytes], message: str, private: bool = False) -> str:
    """Puts the files of a run, by their paths, into a repository in one commit; returns its address.

    The repository is made if there is none. Files of a run that was there before are deleted; other files stay.
    ConfigError if it is not allowed, or if `private` is set and the repository exists and is public.
    """
    hub = _package()
    with _errors(hub, PREFIX + repository):
        api = hub.HfApi()
        api.create_repo(repository, private=private or None, exist_ok=True)
        info = api.model_info(repository)
        if private and not info.private:
            raise ConfigError(
                f"{PREFIX}{repository} is public, and --private does not change that: nothing is uploaded"
            )
        there = [sibling.rfilename for sibling in info.siblings or []]
        operations = [
            hub.CommitOperationDelete(path_in_repo=path) for path in there if is_of_run(path) and path not in files
        ]
        for path, content in files.items():
            source = content if isinstance(content, bytes) else str(content)
            operations.append(hub.CommitOperationAdd(path_in_repo=path, path_or_fileobj=source))
        api.create_commit(repository, operations, commit_message=message)
        return f"{api.endpoint}/{repository}"


def _package() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ConfigError(
            "the Hugging Face Hub requires huggingface_hub, which is not installed: "
            "pip install 'score-sde-jax[huggingface]'"
        ) from error
    return huggingface_hub


@contextlib.contextmanager
def _errors(hub: Any, name: str, what: str = "the run") -> Iterator[None]:
    """Errors of the Hub and of the network as ConfigErrors of one line."""
    errors: ModuleType = hub.errors
    general = errors.HfHubHTTPError.__bases__  # OSError, and HTTPError of the client: httpx or httpx2
    try:
        yield
    except errors.GatedRepoError as error:
        address = f"{hub.constants.ENDPOINT}/{parse(name)[0]}"
        raise ConfigError(f"{name}: its owner grants access on request, at {address}") from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"{name}: the Hub has no such repository, or it is private and you are not logged in (`hf auth login`)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(f"{name}: the repository has no such revision") from error
    except errors.LocalEntryNotFoundError as error:
        raise ConfigError(f"{name}: the Hub cannot be reached, and {what} is not in the cache") from error
    except (*general, RuntimeError, errors.HFValidationError) as error:  # RuntimeError: of uploads
        text = " ".join(f"{error} {error.__cause__ or ''}".split())[:300]
        login = "; `hf auth login` logs in" if "401" in text or "403" in text else ""
        raise ConfigError(f"{name}: {text}{login}") from error


def _not_a_run(name: str | Path) -> str:
    return f"{name} is not a run of score-sde-jax, which has {CONFIG} and checkpoints/STEP:"
