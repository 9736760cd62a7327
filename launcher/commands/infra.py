"""`embedtune infra deploy`, `status`, `delete`: what jobs on SageMaker need, made once."""

import json
from typing import TYPE_CHECKING

import click

from launcher.commands.machine import machine_options

if TYPE_CHECKING:
    from launcher.aws.stack import Stack

PLAN = """\
The stack `{name}` in {region} makes: an encrypted bucket, a repository for images, the role that
jobs run as, a policy for people who launch them{budget}.
At rest it costs its storage alone: about $0.023 per GB and month in the bucket, $0.10 in the
repository, where one image takes about 3 GB. Nothing runs before a job is launched."""


@click.group()
def infra() -> None:
    """Make what jobs on SageMaker need: a bucket, a repository, a role."""


@infra.command()
@click.option(
    "--data-bucket",
    "data_buckets",
    multiple=True,
    metavar="BUCKET",
    help="A bucket that jobs may read from, besides the stack's own; may be repeated.",
)
@click.option(
    "--hub-token-secret",
    metavar="ARN",
    help="Secret of Secrets Manager that holds a token of the Hugging Face Hub.",
)
@click.option("--kms-key", metavar="ARN", help="Key for the bucket; S3's own unless given.")
@click.option(
    "--budget",
    type=click.IntRange(min=0),
    metavar="USD",
    help="What SageMaker may cost a month before a mail is sent; 0 takes the budget away.",
)
@click.option("--budget-email", metavar="ADDRESS", help="Who is told.")
@machine_options("subnet", "security_group", "stack", "profile", "region", "yes")
@click.option("--dry-run", is_flag=True, help="Print the template and its parameters, as JSON.")
def deploy(
    stack: str,
    profile: str | None,
    region: str | None,
    *,
    yes: bool,
    dry_run: bool,
    **given: object,
) -> None:
    """Create the stack, or bring it up to date.

    What an existing stack was given stays unless it is given anew; an empty text takes it away.
    """
    from launcher.aws.sessions import open_session
    from launcher.aws.stack import deploy_stack, stack_parameters, template_text

    if bool(given["subnet"]) != bool(given["security_group"]):
        msg = "`--subnet` and `--security-group` go together; give both or none."
        raise click.UsageError(msg)
    if (budget := given["budget"]) and not given["budget_email"]:
        msg = "`--budget` needs somebody to tell: `--budget-email`."
        raise click.UsageError(msg)
    session = open_session(profile, region)
    parameters = stack_parameters(session, given)
    if dry_run:
        subject = {"stack": stack, "region": session.region_name, "parameters": parameters}
        click.echo(json.dumps({**subject, "template": template_text()}, indent=2))
        return
    tells = f", a budget of ${budget} a month" if budget else ""
    click.echo(PLAN.format(name=stack, region=session.region_name, budget=tells), err=True)
    _ask("Deploy it?", yes=yes)
    deployed = deploy_stack(session, stack, parameters, _tell)
    _show(stack, deployed)
    _tell(f"Next: embedtune image push embedtune {deployed.image}")
    _tell("Then: embedtune launch --backend sagemaker --data …")


@infra.command()
@machine_options("stack", "profile", "region")
def status(stack: str, profile: str | None, region: str | None) -> None:
    """Show the stack's outputs."""
    from launcher.aws.sessions import open_session
    from launcher.aws.stack import require_stack

    _show(stack, require_stack(open_session(profile, region), stack))


@infra.command()
@click.option("--with-data", is_flag=True, help="With all results and images, for good.")
@machine_options("stack", "profile", "region", "yes")
def delete(
    stack: str, profile: str | None, region: str | None, *, with_data: bool, yes: bool
) -> None:
    """Delete the stack and its bucket; refused where they hold results or images."""
    from launcher.aws.sessions import open_session
    from launcher.aws.stack import delete_stack

    session = open_session(profile, region)
    extent = "with ALL results and images in it" if with_data else "if it holds no data"
    _ask(f"Delete the stack `{stack}` in {session.region_name}, {extent}?", yes=yes)
    delete_stack(session, stack, with_data=with_data, say=_tell)


def _show(name: str, stack: "Stack") -> None:
    facts = {
        "stack": name,
        "region": stack.region,
        "bucket": stack.bucket,
        "repository": stack.image,
        "role": stack.role_arn,
        "launcher policy": stack.launcher_policy_arn,
        "hub token": stack.hub_token_secret_arn,
        "key": stack.kms_key_arn,
        "subnets": ", ".join(stack.subnets),
        "security groups": ", ".join(stack.security_groups),
        "version": stack.version,
    }
    for fact, value in facts.items():
        if value:
            click.echo(f"{fact:<17}{value}")


def _ask(question: str, *, yes: bool) -> None:
    if not yes:
        # stdout is for results.
        click.confirm(question, abort=True, err=True)


def _tell(line: str) -> None:
    click.echo(line, err=True)
