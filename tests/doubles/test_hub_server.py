"""The local Hub refuses what the Hub refuses: the real clients raise the same errors.

That they read and write it, the tests of `job/hub.py` and `job/fetch.py` show.
"""

from hub_server import Hub
from remote import in_client

TOKEN = "hf_right"
FILES = {"config.json": b"{}"}


def meet_refusals():
    from huggingface_hub import CommitOperationDelete, HfApi

    mine, nobody, wrong = HfApi(), HfApi(token=False), HfApi(token="hf_expired")

    def outcome(call, *arguments, **options):
        try:
            call(*arguments, **options)
        except Exception as error:  # noqa: BLE001
            response = getattr(error, "response", None)
            return [type(error).__name__, response.status_code if response is not None else None]
        return "works"

    gone = [CommitOperationDelete("gone.json", is_folder=False)]
    private, opened = "me/private", "me/open"
    return {
        "private": outcome(mine.model_info, private),
        "private, no token": outcome(nobody.model_info, private),
        "private, wrong token": outcome(wrong.model_info, private),
        "private file, no token": outcome(nobody.hf_hub_download, private, "config.json"),
        "public, wrong token": outcome(wrong.hf_hub_download, opened, "config.json"),
        "unknown": outcome(mine.model_info, "me/unknown"),
        "unknown, no owner": outcome(nobody.hf_hub_download, "unknown", "config.json"),
        "unknown revision": outcome(nobody.snapshot_download, opened, revision="gone"),
        "unknown file": outcome(nobody.hf_hub_download, opened, "gone.json"),
        "may write": outcome(mine.auth_check, opened, write=True),
        "may write, no token": outcome(nobody.auth_check, opened, write=True),
        "create, no token": outcome(nobody.create_repo, "me/new"),
        "create, exists": outcome(mine.create_repo, opened),
        "commit, no token": outcome(nobody.create_commit, opened, gone, commit_message="a"),
        "commit to no branch": outcome(
            mine.create_commit, opened, gone, commit_message="a", revision="gone"
        ),
        "commit of what is not there": outcome(
            mine.create_commit, opened, gone, commit_message="a"
        ),
        "asked to fail": outcome(mine.model_info, "me/down"),
        "what is left out": outcome(mine.update_repo_settings, opened, private=True),
    }


def test_refusals_are_the_errors_of_the_real_hub(tmp_path):
    """Whatever is missing, private, taken or broken raises the class that the Hub would cause."""
    with Hub(token=TOKEN) as hub:
        for name in ("open", "down", "private"):
            hub.add("model", f"me/{name}", FILES, private=name == "private")
        hub.fail_next(500, match="me/down")
        found = in_client(hub.environment(tmp_path, HF_TOKEN=TOKEN), meet_refusals)
        assert hub.files("me/open") == FILES
    assert found == {
        "private": "works",
        "private, no token": ["RepositoryNotFoundError", 401],
        "private, wrong token": ["HfHubHTTPError", 401],
        "private file, no token": ["RepositoryNotFoundError", 401],
        "public, wrong token": ["HfHubHTTPError", 401],
        "unknown": ["RepositoryNotFoundError", 404],
        "unknown, no owner": ["RepositoryNotFoundError", 401],
        "unknown revision": ["RevisionNotFoundError", 404],
        "unknown file": ["RemoteEntryNotFoundError", 404],
        "may write": "works",
        "may write, no token": ["RepositoryNotFoundError", 401],
        "create, no token": ["HfHubHTTPError", 401],
        "create, exists": ["HfHubHTTPError", 409],
        "commit, no token": ["RepositoryNotFoundError", 401],
        "commit to no branch": ["RevisionNotFoundError", 404],
        "commit of what is not there": ["BadRequestError", 400],
        "asked to fail": ["HfHubHTTPError", 500],
        "what is left out": ["HfHubHTTPError", 501],
    }
