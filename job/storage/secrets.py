"""Read the Hub's token, or a language model's key, from AWS Secrets Manager."""

import os
import re

from job.core.errors import StorageError
from job.storage.aws_session import shared_session


def use_hub_token(arn: str) -> None:
    """Set `HF_TOKEN` from a secret; call it before the Hub client is imported."""
    # The client's error would show a token that is no valid header.
    os.environ["HF_TOKEN"] = _read(arn, "Hub token", "--hub-token-secret", r"[\w.-]+")


def use_llm_key(arn: str) -> None:
    """Set `EMBEDTUNE_LLM_KEY` from a secret."""
    # Any text that is a valid header without spaces.
    key = _read(arn, "language model's key", "--llm-key-secret", r"[!-~]+")
    os.environ["EMBEDTUNE_LLM_KEY"] = key


def _read(arn: str, what: str, option: str, pattern: str) -> str:
    """Return the text of a secret; `pattern` is what it must look like."""
    from botocore.exceptions import BotoCoreError, ClientError

    # The ARN contains the region: arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME
    region = (arn.split(":") + [""] * 4)[3] or None
    try:
        client = shared_session(region=region).client("secretsmanager")
        text: str = client.get_secret_value(SecretId=arn)["SecretString"].strip()
    except (BotoCoreError, ClientError, KeyError) as error:
        kind = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
        msg = f"The {what} cannot be read from the secret `{arn}` ({kind}). Check that it is "
        remedy = f"(`embedtune infra deploy {option}`)"
        raise StorageError(msg + f"a text and that the job's role may read it {remedy}.") from None
    if not re.fullmatch(pattern, text, re.ASCII) or text.startswith("{"):
        msg = f"The secret `{arn}` is not a plain token such as `hf_…`. In AWS's console, choose "
        raise StorageError(msg + "`Plaintext`; by default it stores key/value pairs.")
    return text
