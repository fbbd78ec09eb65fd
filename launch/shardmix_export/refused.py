"""The one error of this tool."""


class Refused(Exception):
    """A sentence that says what can't be used, where, and what to do."""
