"""Read the Hub token from AWS Secrets Manager, with the role of the machine."""

import os
import re

from job.core.errors import StorageError


def use_hub_token(arn: str) -> None:
    """Set `HF_TOKEN` from a secret; call it before the Hub client is imported."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    # The ARN contains the region: arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME
    region = (arn.split(":") + [""] * 4)[3] or None
    try:
        client = boto3.client("secretsmanager", region_name=region)
        token = client.get_secret_value(SecretId=arn)["SecretString"].strip()
    except (BotoCoreError, ClientError, KeyError) as error:
        kind = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
        msg = f"The Hub token cannot be read from the secret `{arn}` ({kind}). Check that it is "
        remedy = "(`embedtune infra deploy --hub-token-secret`)"
        raise StorageError(msg + f"a text and that the job's role may read it {remedy}.") from None
    # The client's error would show a token that is no valid header.
    if not re.fullmatch(r"[\w.-]+", token, re.ASCII):
        msg = f"The secret `{arn}` is not a plain token such as `hf_…`. In AWS's console, choose "
        raise StorageError(msg + "`Plaintext`; by default it stores key/value pairs.")
    os.environ["HF_TOKEN"] = token
