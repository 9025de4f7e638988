# SPDX-License-Identifier: GPL-2.0-or-later
"""A latency plot as SVG: the whole run above, the moments around each switch below."""
import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 1000, 640
INK, SOFT, GRID = "#1f2933", "#616e7c", "#e4e7eb"
DOT, WORST, MARK = "#3e7cb1", "#243b53", "#c8553d"
FONT = "font-family='DejaVu Sans, Helvetica, Arial, sans-serif'"


class Panel:
    """One pair of axes: seconds or milliseconds across, latency on a logarithmic scale up."""

    def __init__(self, out, box, x_range, y_range):
        self.out = out
        self.left, self.top, self.width, self.height = box
        self.x_range, self.y_range = x_range, y_range

    def x(self, value):
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * self.width

    def y(self, value):
        low, high = (math.log10(v) for v in self.y_range)
        at = (math.log10(min(max(value, self.y_range[0]), self.y_range[1])) - low) / (high - low)
        return self.top + self.height - at * self.height

    def text(self, x, y, text, size=12, color=SOFT, anchor="start", weight="normal"):
        self.out.append(f"<text x='{x:.1f}' y='{y:.1f}' {FONT} font-size='{size}' fill='{color}' "
                        f"text-anchor='{anchor}' font-weight='{weight}'>{escape(text)}</text>")

    def line(self, x1, y1, x2, y2, color=GRID, width=1.0, dash=""):
        self.out.append(f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' "
                        f"stroke='{color}' stroke-width='{width}'"
                        f"{f' stroke-dasharray={chr(39)}{dash}{chr(39)}' if dash else ''}/>")

    def axes(self, x_ticks, x_format):
        bottom = self.top + self.height
        decade = 10 ** math.floor(math.log10(self.y_range[0]))
        while decade <= self.y_range[1] * 1.001:
            if decade >= self.y_range[0] * 0.999:
                y = self.y(decade)
                self.line(self.left, y, self.left + self.width, y)
                label = f"{decade:g} ms" if decade < 1000 else f"{decade / 1000:g} s"
                self.text(self.left - 8, y + 4, label, anchor="end")
            decade *= 10
        for tick in x_ticks:
            x = self.x(tick)
            self.line(x, bottom, x, bottom + 4, SOFT)
            self.text(x, bottom + 18, x_format(tick), anchor="middle")
        self.line(self.left, bottom, self.left + self.width, bottom, SOFT)


def buckets(records, begin, end, count):
    """(middle s, median ms, longest ms) of each of @count equal slices."""
    slices = [[] for _ in range(count)]
    for start, duration in records:
        at = int((start - begin) / (end - begin) * count)
        if 0 <= at < count:
            slices[at].append(duration / 1000)
    for i, values in enumerate(slices):
        if values:
            values.sort()
            middle = (end - begin) / 1e6 * (i + 0.5) / count
            yield middle, values[len(values) // 2], values[-1]


def latency_svg(path, records, switches, title, subtitle):
    """@records: (start µs, duration µs). @switches: (label, begin µs, end µs, pause ms)."""
    records = sorted(records)
    begin, end = records[0][0], records[-1][0]
    usual = sorted(d for _, d in records)[len(records) // 100] / 1000
    lowest = 10 ** math.floor(math.log10(max(usual, 0.01)))
    highest = max(d for _, d in records) / 1000
    y_range = (lowest, max(10 ** math.ceil(math.log10(highest * 1.2)), lowest * 100))
    out = [f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{HEIGHT}' "
           f"viewBox='0 0 {WIDTH} {HEIGHT}'>",
           f"<rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>"]

    seconds = (end - begin) / 1e6
    whole = Panel(out, (80, 112, WIDTH - 110, 220), (0, seconds), y_range)
    whole.text(80, 36, title, 19, INK, weight="bold")
    whole.text(80, 58, subtitle, 13)
    step = max(1, round(seconds / 12))
    whole.axes(range(0, int(seconds) + 1, step), lambda t: f"{t} s")
    slices = list(buckets(records, begin, end, 400))
    area = [f"{whole.x(t):.1f},{whole.y(longest):.1f}" for t, _, longest in slices]
    base = [f"{whole.x(t):.1f},{whole.y(median):.1f}" for t, median, _ in reversed(slices)]
    out.append(f"<polygon points='{' '.join(area + base)}' fill='{DOT}' fill-opacity='0.22'/>")
    out.append(f"<polyline points='{' '.join(area)}' fill='none' stroke='{DOT}' "
               f"stroke-width='1'/>")
    median = " ".join(f"{whole.x(t):.1f},{whole.y(m):.1f}" for t, m, _ in slices)
    out.append(f"<polyline points='{median}' fill='none' stroke='{WORST}' stroke-width='1.6'/>")
    for x, color, width, label in ((80, WORST, 2, "median"),
                                   (180, DOT, 1.5, "longest query of each 1/400 of the run")):
        whole.line(x, 74, x + 22, 74, color, width)
        whole.text(x + 28, 78, label)
    for label, at, until, pause in switches:
        x = whole.x((until - begin) / 1e6)
        whole.line(x, whole.top - 6, x, whole.top + whole.height, MARK, 1.6)
        whole.text(x + 6, whole.top + 4, f"{label}: all stood for {pause:.2f} ms", 12, MARK,
                   weight="bold")

    gap, left = 70, 80
    width = (WIDTH - 30 - left - gap * (len(switches) - 1)) / len(switches)
    for i, (label, at, until, pause) in enumerate(switches):
        half = 250.0
        panel = Panel(out, (left + i * (width + gap), 410, width, 170), (-half, half), y_range)
        panel.text(panel.left, 396, f"every query within 250 ms of the {label}", 13, INK,
                   weight="bold")
        panel.axes([-200, -100, 0, 100, 200], lambda t: f"{t:+d} ms" if t else "end of command")
        x1, x2 = (panel.x(max((t - until) / 1000, -half)) for t in (at, until))
        out.append(f"<rect x='{x1:.1f}' y='{panel.top}' width='{max(x2 - x1, 1.5):.1f}' "
                   f"height='{panel.height}' fill='{MARK}' fill-opacity='0.15'/>")
        for start, duration in records:
            t = (start - until) / 1000
            if abs(t) <= half:
                out.append(f"<circle cx='{panel.x(t):.1f}' cy='{panel.y(duration / 1000):.1f}' "
                           f"r='2' fill='{DOT}' fill-opacity='0.65'/>")
    whole.text(80, HEIGHT - 16, "shaded: the command at work; nothing stands still for most of it",
               11)
    out.append("</svg>")
    with open(path, "w") as file:
        file.write("\n".join(out) + "\n")
