"""One colour per variant, the same in every plot."""

COLORS = ["#1f5fa8", "#d1603d", "#3a8f5c", "#8059a8", "#b8912f", "#4aa3b5", "#b04a78", "#6b6b6b"]
GOLDEN_ANGLE_DEG = 137.508  # hues in these steps never come close to each other soon


def css_color(index: int) -> str:
    """Return the colour of a variant by its place in the order; no two are the same."""
    if index < len(COLORS):
        return COLORS[index]
    return f"hsl({index * GOLDEN_ANGLE_DEG % 360:.0f} 45% 47%)"
