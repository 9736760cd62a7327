"""moto's CloudFormation, patched where AWS behaves differently, and a local server for it.

`with patched_stacks():` resources have events; a failed creation is rolled back, a failed update
gets the status of a rollback; `AWS::NoValue` leaves no hole; parameters are strings, with their
defaults; CodeBuild projects are created; a change set without changes is detected by its
parameter values.
"""

import contextlib
import threading
from dataclasses import dataclass

import pytest
from moto.cloudformation import models, parsing
from moto.cloudformation.responses import CloudFormationResponse
from moto.codebuild.models import codebuild_backends
from moto.core.responses import EmptyResult
from moto.logs.models import LogGroup
from moto.moto_api._internal import moto_api_backend
from moto.server import DomainDispatcherApplication, create_backend_app
from s3_server import HOST, Handler, environment_for
from werkzeug.serving import ThreadedWSGIServer

# moto warns about these types and creates nothing.
UNKNOWN = {"AWS::Budgets::Budget", "AWS::S3::BucketPolicy"}


@contextlib.contextmanager
def stack_server():
    """Serve all of moto, initially empty; yield the environment for its clients."""
    moto_api_backend.reset()
    with patched_stacks():
        server = ThreadedWSGIServer(
            HOST, 0, DomainDispatcherApplication(create_backend_app), Handler
        )
        loop = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
        loop.start()
        try:
            settings = {"AWS_REGION": "eu-west-1", "AWS_MAX_ATTEMPTS": "1"}
            yield environment_for(f"http://{HOST}:{server.port}", **settings)
        finally:
            server.shutdown()
            loop.join()
            server.server_close()
    moto_api_backend.reset()


@contextlib.contextmanager
def patched_stacks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parsing, "clean_json", _without_holes(parsing.clean_json))
        for verb, function in (
            ("CREATE", "parse_and_create_resource"),
            ("UPDATE", "parse_and_update_resource"),
        ):
            patch.setattr(parsing, function, _with_events(verb, getattr(parsing, function)))
        patch.setattr(LogGroup, "get_cfn_attribute", lambda group, _: f"{group.arn}:*")
        patch.setattr(models.Stack, "parameter_list", property(_parameters))
        patch.setattr(models.Stack, "has_parameters", _has_same_values)
        patch.setattr(CloudFormationResponse, "execute_change_set", _execute)
        yield


@dataclass
class Unknown:
    """Replaces a resource of a type that moto does not support."""

    logical_resource_id: str
    cf_resource_type: str

    @property
    def physical_resource_id(self):
        return f"some-{self.logical_resource_id}"

    def is_created(self):
        return True

    def delete(self, *_):
        """There is nothing to delete."""


class Project:
    """A CodeBuild project in moto, which lacks the resource but not the service."""

    cf_resource_type = "AWS::CodeBuild::Project"

    def __init__(self, name, properties, account_id, region, before):
        self.logical_resource_id = name
        self.physical_resource_id = before.physical_resource_id if before else f"{name}-1AB2C3"
        self._projects = codebuild_backends[account_id][region]
        given = _lower(properties)
        self.arn = self._projects.create_project(
            project_name=self.physical_resource_id,
            description=given["description"],
            project_source=given["source"] | {"buildspec": given["source"].pop("buildSpec")},
            artifacts=given["artifacts"],
            environment=given["environment"],
            service_role=given["serviceRole"],
            tags=[],
            cache=None,
            timeout=given["timeoutInMinutes"],
            queued_timeout=given["queuedTimeoutInMinutes"],
            source_version=None,
            logs_config=given["logsConfig"],
            vpc_config=None,
        )["arn"]

    @classmethod
    def has_cfn_attr(cls, name):
        return name == "Arn"

    def get_cfn_attribute(self, _):
        return self.arn

    def is_created(self):
        return True

    def delete(self, *_):
        self._projects.delete_project(self.physical_resource_id)


def _lower(given):
    """Convert CloudFormation's names of members to those of the service."""
    if isinstance(given, dict):
        return {name[0].lower() + name[1:]: _lower(value) for name, value in given.items()}
    return given


def _without_holes(clean_json):
    """Leave out items and members whose value is `AWS::NoValue`."""

    def clean(given, resources):
        found = clean_json(given, resources)
        if isinstance(given, dict) and isinstance(found, dict):
            return {name: value for name, value in found.items() if value is not None}
        is_list = isinstance(given, list)
        return [each for each in found if each is not None] if is_list else found

    return clean


def _with_events(verb, make):
    def made(name, json, resources, account_id, region_name):
        stack = models.cloudformation_backends[account_id][region_name].stacks[resources.stack_id]

        def add_event(status, reason=None, made=None):
            physical = getattr(made, "physical_resource_id", "") or ""
            facts = (stack.stack_id, stack.name, name, physical, json["Type"])
            stack.events.append(models.Event(*facts, f"{verb}_{status}", reason, None))

        condition = json.get("Condition")
        if condition and not resources.lazy_condition_map[condition]:
            return None
        add_event("IN_PROGRESS")
        try:
            if json["Type"] in UNKNOWN:
                found = Unknown(name, json["Type"])
            elif json["Type"] == Project.cf_resource_type:
                before = resources._parsed_resources.get(name)
                given = parsing.clean_json(json["Properties"], resources)
                found = Project(name, given, account_id, region_name, before)
            else:
                found = make(name, json, resources, account_id, region_name)
            # A resource that moto cannot update stays unchanged, instead of disappearing.
            found = found or resources._parsed_resources.get(name)
        except Exception as error:
            add_event("FAILED", getattr(error, "message", str(error)))
            raise
        add_event("COMPLETE", made=found)
        return found

    return made


def _as_strings(values):
    return {k: ",".join(v) if isinstance(v, list) else str(v) for k, v in values.items()}


def _parameters(stack):
    values = _as_strings(stack.resource_map.resolved_parameters)
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()]


def _has_same_values(stack, parameters):
    values = _as_strings(stack.resource_map.resolved_parameters)
    return values == values | parameters


def _execute(response):
    """Handle ExecuteChangeSet, which starts an operation and never fails because of a resource."""
    change = response.cloudformation_backend.describe_change_set(
        response._get_param("ChangeSetName")
    )
    stack, verb = change.stack, change.change_set_type
    stack._add_stack_event(f"{verb}_IN_PROGRESS", "User Initiated")
    try:
        change.apply()
    except Exception:  # noqa: BLE001  whatever moto's resources raise
        if verb == "CREATE":
            _roll_back(stack, everything=response._get_bool_param("RetainExceptOnCreate"))
        _end(stack, "ROLLBACK_COMPLETE" if verb == "CREATE" else "UPDATE_ROLLBACK_COMPLETE")
        return EmptyResult()
    stack.template = change.template
    stack._parse_template()
    stack.output_map = stack._create_output_map()
    _end(stack, f"{verb}_COMPLETE")
    return EmptyResult()


def _end(stack, status):
    stack.status = status
    stack._add_stack_event(status)


def _roll_back(stack, *, everything):
    stack._add_stack_event("ROLLBACK_IN_PROGRESS", "The following resource(s) failed to create.")
    resources = stack.resource_map
    if everything:
        for json in resources._resource_json_map.values():
            json.pop("DeletionPolicy", None)
    resources.delete()
    resources._resource_json_map = {}
