"""What can go wrong in a way that a person can mend."""


class BuildError(Exception):
    """A build cannot go on; the message says why and what to do."""
