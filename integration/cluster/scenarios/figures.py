"""Figures that scenarios measured, as a Markdown table for docs/cluster.md."""


class Figures:
    """Named measurements, in the order in which they were made."""

    def __init__(self):
        self.rows = []

    def note(self, what, value):
        """Adds a row and prints it."""
        self.rows.append((what, value))
        print(f"    {what}: {value}", flush=True)

    def write(self, path):
        """Writes the rows as a Markdown table."""
        lines = ["| What | Measured |", "|---|---|", *(f"| {what} | {value} |" for what, value in self.rows)]
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def seconds(value):
    return f"{value:.1f} s"


def load_line(report):
    """One line with request counts and latencies of a load report."""
    failed = report["requests"] - report["ok"]
    return (
        f"{report['requests']} requests ({report['rps']:.0f}/s), {failed} failed; time to first token"
        f" p50 {report['ttft']['p50_ms']:.0f} ms, p99 {report['ttft']['p99_ms']:.0f} ms"
    )
