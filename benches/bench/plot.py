"""The plot: for each row, what each gateway costs in relation to the better peer, as SVG."""

from html import escape

WIDTH, LEFT, RIGHT, TOP, LINE = 900, 400, 30, 70, 26
MOST = 3.0
RADIUS = 4.5
# Colors that people who see few colors can tell apart (Okabe and Ito).
COLORS = {"portcullis": "#d55e00", "before": "#000000", "nginx": "#009e73", "haproxy": "#0072b2", "caddy": "#cc79a7", "pingora": "#e69f00"}


def svg(rows, kinds, goal):
    """`rows` and `kinds` are those of `report`. Whiskers are the least and the greatest round; what is beyond `MOST` is drawn there."""
    lines = [line for line in (*map(_costs, rows), *map(_memory, kinds)) if line]
    height = TOP + LINE * len(lines) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        '<text x="10" y="18">CPU time of a request, or memory of a connection, to the better peer (less is better)</text>',
        *_legend({name for _, found in lines for name in found}),
    ]
    for at in (0.0, 0.5, goal, 1.0, 1.5, 2.0, 2.5, MOST):
        style = 'stroke="#d55e00" stroke-dasharray="4 3"' if at == goal else 'stroke="#cccccc"'
        parts.append(f'<line x1="{_x(at):.1f}" x2="{_x(at):.1f}" y1="{TOP - 8}" y2="{height - 16}" {style}/>')
        if at != goal:
            parts.append(f'<text x="{_x(at):.1f}" y="{height - 3}" text-anchor="middle">{at:g}</text>')
    for number, (title, found) in enumerate(lines):
        y = TOP + LINE * number + LINE / 2
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(title)}</text>')
        # The subject comes first, and is drawn last: on top of the others.
        for name, (middle, least, greatest) in reversed(found.items()):
            color = COLORS[name]
            parts.append(f'<line x1="{_x(least):.1f}" x2="{_x(greatest):.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{color}"/>')
            parts.append(f'<circle cx="{_x(middle):.1f}" cy="{y:.1f}" r="{RADIUS}" fill="{color}"><title>{escape(name)}: {middle:.2f}</title></circle>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _costs(row):
    """Title and figures of a row with peers: for each gateway median, least and greatest, in relation to the better peer's median."""
    if not row["better"]:
        return None
    base = row["gateways"][row["better"]]["cpu_us"]["median"]
    costs = {name: result["cpu_us"] for name, result in row["gateways"].items() if name in COLORS}
    return row["title"], {name: tuple(cpu[key] / base for key in ("median", "min", "max")) for name, cpu in costs.items()}


def _memory(kind):
    found = {name: kib for name, kib in kind["kib"].items() if name in COLORS}
    peers = [kib for name, kib in found.items() if name in kind["peers"]]
    if not peers:
        return None
    return f"idle, {kind['title']}", {name: (kib / min(peers),) * 3 for name, kib in found.items()}


def _legend(names):
    for number, name in enumerate(one for one in COLORS if one in names):
        x = LEFT + 85 * number
        yield f'<circle cx="{x}" cy="38" r="{RADIUS}" fill="{COLORS[name]}"/><text x="{x + 9}" y="42">{name}</text>'


def _x(ratio):
    return LEFT + (WIDTH - LEFT - RIGHT) * min(max(ratio, 0.0), MOST) / MOST
