"""Python imports this in every process of the tests: it records their AWS calls."""

import aws_calls

aws_calls.install()
