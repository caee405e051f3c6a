"""Colours of figures."""

INK, GREY, BLUE, ORANGE = "#222222", "#8a8a8a", "#0072b2", "#d55e00"
# Colours that colour-blind readers can distinguish (Okabe and Ito, 2008).
RIGHT, WRONG = "#009e73", "#d55e00"
