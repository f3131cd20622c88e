"""Figures that stories measured, as a table for people, and as the part of docs that holds them."""


class Figures:
    """What was measured, in the order in which it was."""

    def __init__(self):
        self.rows = []

    def note(self, what, value):
        """Adds a row, and shows it at once."""
        self.rows.append((what, value))
        print(f"    {what}: {value}", flush=True)

    def write(self, path):
        """As a Markdown table."""
        lines = ["| What | Measured |", "|---|---|", *(f"| {what} | {value} |" for what, value in self.rows)]
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def seconds(value):
    return f"{value:.1f} s"


def load_line(report):
    """What a load's clients saw, in a line."""
    failed = report["requests"] - report["ok"]
    return (
        f"{report['requests']} requests ({report['rps']:.0f}/s), {failed} failed; time to first token"
        f" p50 {report['ttft']['p50_ms']:.0f} ms, p99 {report['ttft']['p99_ms']:.0f} ms"
    )
