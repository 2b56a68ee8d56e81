"""The convergence plot of docs/conformance.md: error over evaluations, both logarithmic."""

import math

WIDTH, HEIGHT = 760, 470
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 20, 50
COLORS = ("#4269d0", "#e8590c", "#d6336c", "#0c8599", "#2b8a3e", "#7048e8", "#a9741a", "#343a40")


class Axes:
    """Places on the page of numbers on two logarithmic axes."""

    def __init__(self, lines):
        xs = [x for line in lines.values() for x, _ in line]
        ys = [y for line in lines.values() for _, y in line]
        self.x_range = math.log10(min(xs)), math.log10(max(xs))
        self.y_range = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def x(self, value):
        low, high = self.x_range
        share = (math.log10(value) - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        low, high = self.y_range
        share = (high - math.log10(value)) / (high - low)
        return TOP + share * (HEIGHT - TOP - BOTTOM)


def draw(lines, title):
    """Return an SVG of {label: [(evaluations, error), ...]}."""
    axes = Axes(lines)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{title}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *_grid(axes, sorted({x for line in lines.values() for x, _ in line})),
        *_slopes(axes),
    ]
    places = _spread({label: axes.y(line[-1][1]) for label, line in lines.items()})
    for color, (label, line) in zip(COLORS, lines.items(), strict=True):
        points = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in line)
        end = axes.x(line[-1][0])
        parts += [
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>',
            *(
                f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3" fill="{color}"/>'
                for x, y in line
            ),
            f'<line x1="{end + 4:.1f}" y1="{axes.y(line[-1][1]):.1f}" x2="{WIDTH - RIGHT + 16}" '
            f'y2="{places[label]:.1f}" stroke="{color}" stroke-width="0.7"/>',
            f'<text x="{WIDTH - RIGHT + 20}" y="{places[label] + 4:.1f}" fill="{color}">'
            f"{label}</text>",
        ]
    return "\n".join([*parts, "</svg>\n"])


def _grid(axes, xs):
    low, high = axes.y_range
    for power in range(low, high + 1):
        y = axes.y(10.0**power)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        text = f'1e<tspan dx="1">{power}</tspan>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#444">{text}</text>'
    for x in (10, 20, 50, 100, 200):
        if xs[0] <= x <= xs[-1]:
            at = axes.x(x)
            yield (
                f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
                'stroke="#eee"/>'
            )
            yield (
                f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" '
                f'fill="#444">{x}</text>'
            )
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield (
        f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle" fill="#444">'
        "evaluations of the network</text>"
    )
    yield (
        f'<text x="16" y="{HEIGHT / 2}" fill="#444" text-anchor="middle" '
        f'transform="rotate(-90 16 {HEIGHT / 2})">largest error of the sample</text>'
    )


def _slopes(axes):
    """Dashed guides of slope 1, 2 and 3, from one corner."""
    x0, x1 = (10.0**end for end in axes.x_range)
    y0 = 10.0 ** axes.y_range[1]
    for order in (1, 2, 3):
        y1, x2 = y0 * (x0 / x1) ** order, x1
        if math.log10(y1) < axes.y_range[0]:
            y1 = 10.0 ** axes.y_range[0]
            x2 = x0 * (y0 / y1) ** (1 / order)
        yield (
            f'<line x1="{axes.x(x0):.1f}" y1="{axes.y(y0):.1f}" x2="{axes.x(x2):.1f}" '
            f'y2="{axes.y(y1):.1f}" stroke="#999" stroke-dasharray="5 4"/>'
        )
        at_x, at_y = math.sqrt(x0 * x2), math.sqrt(y0 * y1)
        yield (
            f'<text x="{axes.x(at_x) + 6:.1f}" y="{axes.y(at_y) - 6:.1f}" fill="#777">'
            f"order {order}</text>"
        )


def _spread(places, apart=17):
    """Move labels down until none covers another."""
    result, last = {}, -math.inf
    for label, y in sorted(places.items(), key=lambda item: item[1]):
        last = result[label] = max(y, last + apart)
    return result
