"""Small text in figures: drawable with the installed fonts, shortened to its space."""

import functools

from matplotlib import font_manager, ft2font

from keras_meta import files

SIZE = 7
# Characters of a text that are drawn at most; measuring more takes long.
LONGEST = 40


def write(axes, text, x, y, width, colour, weight="normal", rotation=0):
    """Writes a text centred at (x, y), shortened until it fits.

    Args:
        axes: `matplotlib.axes.Axes` of a figure with a canvas.
        text: any string.
        x: horizontal centre, in data units.
        y: vertical centre, in data units.
        width: largest width of the text (height if rotated), in inches.
        colour: a colour of matplotlib.
        weight: "normal" or "bold".
        rotation: in degrees.
    """
    text, families = drawable(text, weight)
    artist = axes.text(
        x,
        y,
        text,
        rotation=rotation,
        size=SIZE,
        color=colour,
        weight=weight,
        ha="center",
        va="center",
        parse_math=False,  # a name may contain a dollar sign
        family=families,
    )
    renderer = axes.figure.canvas.get_renderer()
    text = text[:LONGEST]
    while max(artist.get_window_extent(renderer).size) > width * axes.figure.dpi:
        text = text[:-1]
        artist.set_text(text + "…")


def drawable(text, weight):
    """Replaces the characters of a text that no installed font has by "?".

    Returns:
        `(text, families)`: font families that together have all its characters, the
        default ones first.
    """
    # A copy: in Matplotlib 3.9 this is the list of `rcParams` itself.
    families, drawn = [*font_manager.FontProperties().get_family()], ""
    for character in files.printable(text):
        family = family_of(character, weight)
        drawn += character if family else "?"
        families += [family] if family and family not in families else []
    return drawn, families


@functools.cache
def family_of(character, weight):
    """Returns the first font family that has a character, default first, or None."""
    defaults = font_manager.FontProperties().get_family()
    installed = {font.name for font in font_manager.fontManager.ttflist}
    for family in [*defaults, *sorted(installed)]:
        properties = font_manager.FontProperties(family=family, weight=weight)
        font = ft2font.FT2Font(font_manager.findfont(properties))
        # A font that has a glyph for U+10FFFF, which is no character, draws boxes.
        if font.get_char_index(ord(character)) and not font.get_char_index(0x10FFFF):
            return family
    return None
