"""Stories: functions whose names are claims, told in the order in which they are written."""


class LeftOut(Exception):
    """A story cannot be told on this cluster; says why."""


def story(function):
    """Marks a claim about the system; it gets the world, and holds unless it raises."""
    function.is_story = True
    return function


def stories_of(module):
    return [thing for thing in vars(module).values() if getattr(thing, "is_story", False)]
