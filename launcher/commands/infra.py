"""`embedtune infra deploy`, `status`, `delete`: the AWS resources for jobs on SageMaker."""

import json
from typing import TYPE_CHECKING, Any

import click

from launcher.commands.machine import machine_options
from launcher.plan.machine import Duration

if TYPE_CHECKING:
    from launcher.aws.stack import Stack

PLAN = """\
The stack `{name}` in {region} creates: an encrypted bucket, an image repository, a project that
builds the image, the roles of jobs and builds, a policy for people who launch jobs{budget}.
It costs only storage: about $0.023 per GB and month in the bucket, and $0.10 in the repository,
where one image takes about 3 GB. Nothing runs until you build an image or launch a job."""


class _Limit(Duration):
    """A duration, or an empty string, which removes the limit."""

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:  # noqa: ANN401  Click's signature expects an integer
        return value if value == "" else super().convert(value, param, ctx)


@click.group()
def infra() -> None:
    """Manage the AWS resources for jobs on SageMaker: bucket, repository, role."""


@infra.command()
@click.option(
    "--data-bucket",
    "data_buckets",
    multiple=True,
    metavar="BUCKET",
    help="Another bucket that jobs may read from; may be repeated.",
)
@click.option(
    "--hub-token-secret",
    metavar="ARN",
    help="Secret in Secrets Manager with a Hugging Face Hub token.",
)
@click.option(
    "--llm-key-secret",
    metavar="ARN",
    help="Secret with the key of a language model's server (`generation.llm_url`).",
)
@click.option(
    "--bedrock-model",
    multiple=True,
    metavar="MODEL",
    help="Model of Amazon Bedrock that jobs may ask: an id, that of an inference profile, or an "
    "ARN; may be repeated, and replaces those before.",
)
@click.option("--kms-key", metavar="ARN", help="KMS key for the bucket.  [default: S3's own key]")
@click.option(
    "--allow-instance-type",
    multiple=True,
    metavar="TYPE",
    help="The launcher policy allows only these instance types; may be repeated.",
)
@click.option(
    "--limit-runtime",
    type=_Limit(),
    help="The launcher policy requires a maximum runtime of at most this.",
)
@click.option(
    "--limit-keep-alive",
    type=_Limit(),
    help="The launcher policy allows to keep machines warm for at most this; 0 forbids it.",
)
@click.option(
    "--log-retention",
    type=click.IntRange(min=0),
    metavar="DAYS",
    help="Delete logs of training jobs, of the whole account, after so many days; 0: never.",
)
@click.option(
    "--keep-images",
    type=click.IntRange(1, 1000),
    metavar="COUNT",
    help="Delete the oldest images if there are more tagged ones.  [default: 30]",
)
@click.option(
    "--budget",
    type=click.IntRange(min=0),
    metavar="USD",
    help="Monthly SageMaker cost above which a mail is sent; 0 removes the budget.",
)
@click.option("--budget-email", metavar="ADDRESS", help="Recipient of the budget mail.")
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
    """Create or update the stack.

    Omitted parameters keep their values; pass an empty string to clear one.
    """
    from launcher.aws.account import options, stack_option
    from launcher.aws.sessions import open_session
    from launcher.aws.stack import deploy_stack, stack_parameters, template_text

    if bool(given["subnet"]) != bool(given["security_group"]):
        msg = "`--subnet` and `--security-group` must be given together."
        raise click.UsageError(msg)
    if (budget := given["budget"]) and not given["budget_email"]:
        msg = "`--budget` needs a recipient: `--budget-email`."
        raise click.UsageError(msg)
    session = open_session(profile, region)
    parameters = stack_parameters(session, given)
    if dry_run:
        target = {"stack": stack, "region": session.region_name, "parameters": parameters}
        click.echo(json.dumps({**target, "template": template_text()}, indent=2))
        return
    budget_text = f", a budget of ${budget} a month" if budget else ""
    click.echo(PLAN.format(name=stack, region=session.region_name, budget=budget_text), err=True)
    _confirm("Deploy it?", yes=yes)
    deployed = deploy_stack(session, stack, parameters, _log)
    _print_stack(stack, deployed)
    _log(f"Next: embedtune image build --on aws{stack_option(stack)}{options(session)}")
    _log("Then: embedtune launch --backend sagemaker --data …")


@infra.command()
@machine_options("stack", "profile", "region")
def status(stack: str, profile: str | None, region: str | None) -> None:
    """Show the stack's outputs."""
    from launcher.aws.sessions import open_session
    from launcher.aws.stack import require_stack

    _print_stack(stack, require_stack(open_session(profile, region), stack))


@infra.command()
@click.option("--with-data", is_flag=True, help="Also delete all results and images, permanently.")
@machine_options("stack", "profile", "region", "yes")
def delete(
    stack: str, profile: str | None, region: str | None, *, with_data: bool, yes: bool
) -> None:
    """Delete the stack and its bucket; refused if they hold results or images."""
    from launcher.aws.sessions import open_session
    from launcher.aws.stack import delete_stack

    session = open_session(profile, region)
    extent = "with ALL its results and images" if with_data else "if it holds no data"
    _confirm(f"Delete the stack `{stack}` in {session.region_name}, {extent}?", yes=yes)
    delete_stack(session, stack, with_data=with_data, say=_log)


def _print_stack(name: str, stack: "Stack") -> None:
    facts = {
        "stack": name,
        "region": stack.region,
        "bucket": stack.bucket,
        "repository": stack.image,
        "role": stack.role_arn,
        "build project": stack.build_project,
        "launcher policy": stack.launcher_policy_arn,
        "hub token": stack.hub_token_secret_arn,
        "llm key": stack.llm_key_secret_arn,
        "bedrock models": ", ".join(stack.bedrock_model_arns),
        "key": stack.kms_key_arn,
        "subnets": ", ".join(stack.subnets),
        "security groups": ", ".join(stack.security_groups),
        "version": stack.version,
    }
    for fact, value in facts.items():
        if value:
            click.echo(f"{fact:<17}{value}")


def _confirm(question: str, *, yes: bool) -> None:
    if not yes:
        # stdout is reserved for results.
        click.confirm(question, abort=True, err=True)


def _log(line: str) -> None:
    click.echo(line, err=True)
