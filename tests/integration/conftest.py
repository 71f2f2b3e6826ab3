"""Fixtures of the tests that store outputs in a bucket."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.project import run
from tests.stored_project import CREDENTIALS, DVC, URL, Stored, make_stored_project, s3_server


@pytest.fixture(scope="module")
def pushed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, Any, dict[str, bytes]]]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each of its requests
    with pytest.MonkeyPatch.context() as patch, s3_server() as address:
        for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": address}).items():
            patch.setenv(name, value)
        import s3fs

        bucket = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        bucket.mkdir(URL.partition("/dvc")[0])
        root = make_stored_project(tmp_path_factory.mktemp("stored") / "project")
        run(root, *DVC, "remote", "add", "-q", "--default", "store", URL)
        run(root, *DVC, "config", "remote.store.verify", "true")
        run(root, *DVC, "push", "-q")
        yield root, bucket, {key: bucket.cat_file(key) for key in bucket.find(URL)}
        bucket.rm(URL.partition("/dvc")[0], recursive=True)


@pytest.fixture
def stored(pushed: tuple[Path, Any, dict[str, bytes]], tmp_path: Path) -> Stored:
    """The project as it was pushed, and the bucket as it was then."""
    source, bucket, objects = pushed
    for key in bucket.find(URL):
        bucket.rm_file(key)
    for key, content in objects.items():
        bucket.pipe_file(key, content)
    shutil.copytree(source, tmp_path / "project", symlinks=True)
    return Stored(tmp_path / "project", bucket)
