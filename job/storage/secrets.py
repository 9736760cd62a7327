"""The Hub's token out of AWS Secrets Manager, read by the machine's own role."""

import os
import re

from job.core.errors import StorageError


def use_hub_token(arn: str) -> None:
    """Give the Hub's client the token that a secret holds, before that client is imported."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    # The ARN names the region: arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME
    region = (arn.split(":") + [""] * 4)[3] or None
    try:
        client = boto3.client("secretsmanager", region_name=region)
        token = client.get_secret_value(SecretId=arn)["SecretString"].strip()
    except (BotoCoreError, ClientError, KeyError) as error:
        kind = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
        msg = f"The Hub's token cannot be read from the secret `{arn}` ({kind}): does it exist, "
        remedy = "(`embedtune infra deploy --hub-token-secret`)"
        raise StorageError(msg + f"as a text, and may the job's role read it {remedy}?") from None
    # The client would show in its own error what cannot stand in a header.
    if not re.fullmatch(r"[\w.-]+", token, re.ASCII):
        msg = f"The secret `{arn}` holds no token alone, as in `hf_…`: AWS's console makes pairs "
        raise StorageError(msg + "of key and value unless `Plaintext` is chosen.")
    os.environ["HF_TOKEN"] = token
