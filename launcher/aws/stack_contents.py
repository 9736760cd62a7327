"""What deleting a stack would lose: the bucket's objects and the repository's images.

A bucket or repository that does not exist counts as empty: its creation failed, or it was deleted
by hand.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from job.core.errors import BackendError
from launcher.aws.sessions import NO_BUCKET, client, error_code, paginate, resource

if TYPE_CHECKING:
    import boto3

# Maximum per request: listed objects, deleted images.
OBJECTS_A_PAGE, IMAGES_A_REQUEST = 1000, 100


@dataclass(frozen=True)
class Contents:
    # A boto3 resource; it lists old versions of objects as well.
    bucket: Any
    ecr: Any
    repository: str | None

    def require_empty(self) -> None:
        """Raise `BackendError` if there are objects or images."""
        # The first page of objects is enough.
        versions = self.bucket.object_versions.limit(OBJECTS_A_PAGE) if self.bucket else ()
        objects, images = len(list(versions)), len(self._images())
        if objects or images:
            name = self.bucket.name if self.bucket else None
            more = " or more" if objects == OBJECTS_A_PAGE else ""
            msg = (
                f"The bucket `{name}` holds {_count(objects, 'object')}{more}, the repository "
                f"`{self.repository}` {_count(images, 'image')}; nothing was deleted. Copy what "
                f"you need (`aws s3 sync s3://{name} …`), then run `embedtune infra delete "
                "--with-data`."
            )
            raise BackendError(msg)

    def delete(self, say: Callable[[str], None]) -> None:
        """Delete all objects and images, but neither the bucket nor the repository."""
        if self.bucket:
            self._delete_objects(say)
        self._delete_images(say)

    def _delete_objects(self, say: Callable[[str], None]) -> None:
        deleted = 0
        for answer in self.bucket.object_versions.delete():
            for error in answer.get("Errors", []):
                uri, reason = f"s3://{self.bucket.name}/{error['Key']}", error["Message"]
                msg = f"`{uri}` was not deleted: {reason} ({error['Code']})."
                raise BackendError(msg)
            deleted += len(answer["Deleted"])
        if deleted:
            say(f"Deleted {_count(deleted, 'object')} in the bucket `{self.bucket.name}`.")

    def _delete_images(self, say: Callable[[str], None]) -> None:
        """Delete all images in several passes: an index must be deleted before its images."""
        found = left = self._images()
        while left:
            failures = []
            for start in range(0, len(left), IMAGES_A_REQUEST):
                part = [{"imageDigest": each} for each in left[start : start + IMAGES_A_REQUEST]]
                done = self.ecr.batch_delete_image(repositoryName=self.repository, imageIds=part)
                failures += done["failures"]
            before, left = left, self._images()
            if len(left) == len(before):
                reason = failures[0]["failureReason"] if failures else "no reason given"
                msg = f"The images of `{self.repository}` were not deleted: {reason}."
                raise BackendError(msg)
        if found:
            say(f"Deleted {_count(len(found), 'image')} in the repository `{self.repository}`.")

    def _images(self) -> list[str]:
        """List the digests of the images; an image may have several tags."""
        if self.repository is None:
            return []
        images = paginate(self.ecr, "list_images", "imageIds", repositoryName=self.repository)
        try:
            return sorted({image["imageDigest"] for image in images})
        except self.ecr.exceptions.RepositoryNotFoundException:
            return []


def contents_of(session: "boto3.Session", names: dict[str, str]) -> Contents:
    """Find a stack's bucket and repository; `names` maps resource types to names."""
    name = names.get("AWS::S3::Bucket")
    bucket = resource(session, "s3").Bucket(name) if name else None
    if bucket and not _exists(bucket):
        bucket = None
    return Contents(bucket, client(session, "ecr"), names.get("AWS::ECR::Repository"))


def _exists(bucket: Any) -> bool:  # noqa: ANN401
    from botocore.exceptions import ClientError

    try:
        bucket.meta.client.head_bucket(Bucket=bucket.name)
    except ClientError as error:
        if error_code(error) not in NO_BUCKET:
            raise
        return False
    return True


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
