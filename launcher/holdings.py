"""What a stack holds that is somebody's work: the objects of a bucket, the images of a repository.

A name of `None` is what was never made, or what somebody has deleted by hand: it holds nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from job.errors import BackendError
from launcher.cloudformation import Say

# What one request lists, or deletes, at most.
OBJECTS_A_PAGE, IMAGES_A_REQUEST = 1000, 100


@dataclass(frozen=True)
class Bucket:
    s3: Any
    name: str | None

    def pages(self) -> Iterator[list[dict[str, str]]]:
        """Yield what it holds, up to 1,000 at a time, with old versions where those are kept."""
        if self.name is None or not self._is_there():
            return
        pages = self.s3.get_paginator("list_object_versions")
        for page in pages.paginate(Bucket=self.name):
            found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            if found:
                yield [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in found]

    def empty(self, say: Say) -> None:
        deleted = 0
        for page in self.pages():
            wanted = {"Objects": page, "Quiet": True}
            done = self.s3.delete_objects(Bucket=self.name, Delete=wanted)
            for error in done.get("Errors", []):
                msg = (
                    f"`s3://{self.name}/{error['Key']}` was not deleted: {error['Message']} "
                    f"({error['Code']})."
                )
                raise BackendError(msg)
            deleted += len(page)
        if deleted:
            say(f"Deleted {_count(deleted, 'object')} of the bucket `{self.name}`.")

    def delete(self, say: Say) -> None:
        if self.name is not None and self._is_there():
            self.s3.delete_bucket(Bucket=self.name)
            say(f"Deleted the bucket `{self.name}`.")

    def _is_there(self) -> bool:
        from botocore.exceptions import ClientError

        try:
            self.s3.head_bucket(Bucket=self.name)
        except ClientError as error:
            # HEAD has no body, so its code is the status.
            if error.response["Error"]["Code"] in ("404", "NoSuchBucket"):
                return False
            raise
        return True


@dataclass(frozen=True)
class Repository:
    ecr: Any
    name: str | None

    def images(self) -> list[str]:
        """List the digests of its images."""
        if self.name is None:
            return []
        pages = self.ecr.get_paginator("list_images")
        try:
            found = [
                image
                for page in pages.paginate(repositoryName=self.name)
                for image in page["imageIds"]
            ]
        except self.ecr.exceptions.RepositoryNotFoundException:
            return []
        # One image may have several tags.
        return sorted({image["imageDigest"] for image in found})

    def empty(self, say: Say) -> None:
        """Delete all images, in several passes: an index goes before the images it names."""
        found = left = self.images()
        while left:
            failures = [failure for part in _parts(left) for failure in self._delete(part)]
            before, left = left, self.images()
            if len(left) == len(before):
                reason = failures[0]["failureReason"] if failures else "no reason was given"
                msg = f"The images of the repository `{self.name}` were not deleted: {reason}."
                raise BackendError(msg)
        if found:
            say(f"Deleted {_count(len(found), 'image')} of the repository `{self.name}`.")

    def _delete(self, digests: list[str]) -> list[dict[str, str]]:
        wanted = [{"imageDigest": digest} for digest in digests]
        done = self.ecr.batch_delete_image(repositoryName=self.name, imageIds=wanted)
        failures: list[dict[str, str]] = done["failures"]
        return failures


def require_empty(bucket: Bucket, repository: Repository) -> None:
    """Raise `BackendError` where there is something that a deletion would lose."""
    # The first page of objects says enough.
    objects, images = len(next(bucket.pages(), [])), len(repository.images())
    if objects or images:
        more = " or more" if objects == OBJECTS_A_PAGE else ""
        msg = (
            f"The bucket `{bucket.name}` holds {_count(objects, 'object')}{more}, the repository "
            f"`{repository.name}` {_count(images, 'image')}; nothing was deleted. Keep what you "
            f"need (`aws s3 sync s3://{bucket.name} …`), then `embedtune infra delete --with-data`."
        )
        raise BackendError(msg)


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _parts(digests: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(digests), IMAGES_A_REQUEST):
        yield digests[start : start + IMAGES_A_REQUEST]
