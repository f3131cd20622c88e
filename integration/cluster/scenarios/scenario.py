"""Scenarios: functions whose names are claims. A module's scenarios run in the order in which they are written."""


class Skipped(Exception):
    """A scenario cannot run on this cluster; carries the reason."""


def scenario(function):
    """Marks a function as a scenario. It is called with the context, and passes unless it raises."""
    function.is_scenario = True
    return function


def scenarios_of(module):
    return [thing for thing in vars(module).values() if getattr(thing, "is_scenario", False)]
