"""What ends a rig: an error that its user can do something about."""


class Fault(Exception):
    """What went wrong, with its cure in the same words."""
